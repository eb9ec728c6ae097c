"""Pages from templates: each is one file that holds all it needs."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from synthseg_bids.files import write_text

from .charts import format_number

_INLINE = re.compile(
    r'`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|(https?://[^\s<>()]+[^\s<>().,;])'
)
#: Elements of the groups of :data:`_INLINE`.
_ELEMENTS = (
    Markup('<code>{}</code>'),
    Markup('<strong>{}</strong>'),
    Markup('<em>{}</em>'),
    Markup('<a href="{0}" rel="noreferrer">{0}</a>'),
)


def write_page(
    path: Path, template: str, content: dict[str, Any], scripts: Sequence[str] = ()
) -> Path:
    """Fill a template.

    Parameters
    ----------
    path : Path
        HTML file to write.
    template : str
        Name of a file in ``templates``.
    content : dict of str to object
        What the template shows; text is escaped.
    scripts : sequence of str
        Further scripts, by the name of their file.

    Returns
    -------
    Path
        The file.
    """
    script = '\n'.join(resource(name) for name in ('report.js', *scripts))
    own = {
        'script': Markup(script),
        'script_digest': _base64(hashlib.sha256(script.encode()).digest()),
        'style': Markup(resource('report.css')),
    }
    write_text(path, f'{fill(template, content | own)}\n')
    return path


def fill(template: str, content: dict[str, Any]) -> str:
    """Fill a template; see :func:`write_page`."""
    return _environment().get_template(template).render(content)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader('synthseg_bids.reports'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        'base64': lambda text: _base64(text.encode()),
        'markdown': markdown,
        'rounded': format_number,
    }
    environment.policies['json.dumps_kwargs'] = {'separators': (',', ':'), 'allow_nan': False}
    return environment


def resource(name: str) -> str:
    """Read a script or style sheet of the pages."""
    return files('synthseg_bids').joinpath(f'reports/{name}').read_text(encoding='utf-8')


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def data_uri(path: Path) -> str:
    """Return a PNG file as a URI that holds its content."""
    return f'data:image/png;base64,{_base64(path.read_bytes())}'


def markdown(text: str) -> Markup:
    r"""Turn the Markdown of our own methods text into HTML.

    Headings, paragraphs, bullet lists, code, bold, italics and bare addresses; everything else
    stays as it is written.

    Examples
    --------
    >>> print(markdown('# Methods\n\nUsed *SynthSeg* <b>.'))
    <h3>Methods</h3><p>Used <em>SynthSeg</em> &lt;b&gt;.</p>
    """
    blocks = re.split(r'\n\s*\n', text.strip())
    return Markup('').join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> Markup:
    lines = [line.rstrip() for line in block.strip().splitlines()]
    if heading := re.fullmatch(r'(#{1,4})\s+(.*)', lines[0]):
        level, rest = min(len(heading[1]) + 2, 6), '\n'.join(lines[1:])
        title = Markup('<h{0}>{1}</h{0}>').format(level, _inline(heading[2]))
        return title + _block(rest) if rest else title
    items = re.split(r'\n[-*+]\s+', '\n' + '\n'.join(lines))
    if items[0] == '' and len(items) > 1:
        listed = (Markup('<li>{}</li>').format(_inline(item)) for item in items[1:])
        return Markup('<ul>{}</ul>').format(Markup('').join(listed))
    return Markup('<p>{}</p>').format(_inline(' '.join(lines)))


def _inline(text: str) -> Markup:
    found, end = Markup(''), 0
    for match in _INLINE.finditer(text):
        group = match.lastindex or 1
        found += escape(text[end : match.start()]) + _ELEMENTS[group - 1].format(match[group])
        end = match.end()
    return found + escape(text[end:])
