"""What Sphinx is taught about this project; see ``conf.py``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from nipype.interfaces.base import BaseInterface, isdefined
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from synthseg_bids.app import parser as app_module
from synthseg_bids.cli import main as command_module

#: How pages are named in the repository: in other pages, in docstrings and in help texts.
PAGE = re.compile(r'(?<![\w/])(?:docs/)?(\w+)\.rst\b')
#: What is a literal in a help text: what is marked up as one, and options.
LITERAL = re.compile(r'(``.+?``|(?<![\w-])--[\w-]*)', re.DOTALL)
#: Members that every Nipype interface has.
NOT_SHOWN = ('input_spec', 'output_spec', 'version')


class LinkPages(SphinxTransform):
    """Make links of the names of pages, so that these can stay as they are in the repository."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        """Replace ``docs/NAME.rst``, whether it is a literal, a link or plain text."""
        for node in list(self.document.findall(nodes.literal)):
            self._replace(node, node.astext())
        for node in list(self.document.findall(nodes.reference)):
            shown = node.astext()
            self._replace(node, node.get('refuri', ''), '' if PAGE.fullmatch(shown) else shown)
        for text in list(self.document.findall(nodes.Text)):
            if PAGE.search(text) and isinstance(text.parent, nodes.paragraph):
                text.parent.replace(text, list(self._linked(text)))

    def _replace(self, node: nodes.Element, name: str, shown: str = '') -> None:
        target = PAGE.fullmatch(name)
        if target and target[1] in self.env.found_docs:
            node.replace_self(self._link(target[1], shown))

    def _linked(self, text: nodes.Text) -> Iterator[nodes.Node]:
        end = 0
        for match in PAGE.finditer(text):
            if match[1] in self.env.found_docs:
                yield nodes.Text(text[end : match.start()])
                yield self._link(match[1])
                end = match.end()
        yield nodes.Text(text[end:])

    def _link(self, name: str, shown: str = '') -> pending_xref:
        """Return a link to a page, by default with its title as text."""
        document = {'refdoc': self.env.docname, 'reftarget': f'/{name}'}
        options = {'refdomain': 'std', 'reftype': 'doc', 'refwarn': True}
        text = nodes.inline('', shown or name)
        return pending_xref('', text, refexplicit=bool(shown), **options, **document)


def app_parser() -> argparse.ArgumentParser:
    """Return the parser of ``synthseg-bids``, its texts as on a page."""
    return _as_on_a_page(app_module.build_parser())


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of ``synthseg`` and its subcommands, their texts as on a page."""
    return _as_on_a_page(command_module.build_parser())


def _as_on_a_page(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Turn the texts of a parser into reStructuredText."""
    parser.description = _marked_up(parser.description)
    for group in parser._action_groups:
        group.title = (group.title or '').capitalize()
    for action in parser._actions:
        action.help = _marked_up(action.help)
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _as_on_a_page(subparser)
    return parser


def _marked_up(text: str | None) -> str:
    """Make literals of options, and escape what would be markup."""
    parts = LITERAL.split(text or '')
    for i, part in enumerate(parts):
        if part.startswith('--'):
            parts[i] = f'``{part}``'
        elif not part.startswith('``'):
            parts[i] = part.replace('*', '\\*')
    return ''.join(parts)


def describe_interface(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Add the inputs and outputs of a Nipype interface to its docstring."""
    if not (isinstance(obj, type) and issubclass(obj, BaseInterface)):
        return
    for title, spec in (('Inputs', obj.input_spec), ('Outputs', obj.output_spec)):
        if spec is not None:
            lines += ['', f'**{title}**', '']
            for trait, definition in sorted(spec().items()):
                lines += _describe(trait, definition, spec()) if trait else []


def _describe(name: str, trait: Any, spec: Any) -> list[str]:
    """Describe one trait as an item of a definition list."""
    facts = ['mandatory'] if trait.mandatory else []
    value = getattr(spec, name)
    if trait.usedefault and isdefined(value):
        facts.append(f'default: ``{value!r}``')
    note = f' ({", ".join(facts)})' if facts else ''
    return [f'``{name}``{note}', f'    {trait.desc}', '']


def hide_members(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what all interfaces inherit."""
    return True if name in NOT_SHOWN else None


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Show that a Nipype interface takes its inputs by name."""
    if isinstance(obj, type) and issubclass(obj, BaseInterface):
        return '(**inputs)', ''
    return None


def move_pictures(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Let the pictures of the README be found when a page includes it."""
    content[0] = content[0].replace('image:: docs/', 'image:: ')


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of it."""
    app.add_transform(LinkPages)
    app.connect('include-read', move_pictures)
    app.connect('autodoc-process-docstring', describe_interface)
    app.connect('autodoc-process-signature', shorten_signature)
    app.connect('autodoc-skip-member', hide_members)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
