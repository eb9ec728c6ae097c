"""Write the Boutiques descriptor of the BIDS App from its parser.

Usage: python release/boutiques_descriptor.py

writes ``release/synthseg-bids.json``, which ``bosh validate --bids`` accepts.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthseg_bids import __version__
from synthseg_bids.app.docker_wrapper import IMAGE, NEEDED_GB, WRITTEN
from synthseg_bids.app.parser import PROG, build_parser

PATH = Path(__file__).with_name('synthseg-bids.json')
#: Options that Boutiques does not offer: what they need, or do, is not there.
LEFT_OUT = {
    'debug': 'opens a debugger, which needs a terminal',
    'notrack': 'has no effect',
    'help': 'prints a text and ends',
    'version': 'prints a text and ends',
}
#: Their values stand first, in this order: see "bosh validate --bids".
_FIRST = ('bids_dir', 'output_dir', 'analysis_level', 'participant_label', 'session_label')

Content = dict[str, Any]


def descriptor() -> Content:
    """Describe the BIDS App as version 0.5 of Boutiques' schema has it.

    Returns
    -------
    dict
        For ``bosh``; every option of the parser is an input, but those in :data:`LEFT_OUT`.
    """
    parser = build_parser()
    actions = [action for action in parser._actions if action.dest not in LEFT_OUT]
    inputs = [found for action in actions for found in _inputs(action)]
    keys = [_key(name) for name in _FIRST]
    keys += [i['value-key'] for i in inputs if i['value-key'] not in keys]
    return {
        'name': PROG,
        'tool-version': __version__,
        'description': parser.description,
        'author': 'The synthseg-bids developers',
        'command-line': f'mkdir -p [OUTPUT_DIR]; {PROG} {" ".join(keys)}',
        'container-image': {'type': 'docker', 'image': IMAGE},
        'schema-version': '0.5',
        'inputs': inputs,
        'groups': list(_groups(actions)),
        'output-files': [
            {
                'id': 'output_dataset',
                'name': 'Output dataset',
                'description': 'BIDS derivatives: label maps, tables and reports.',
                'path-template': _key('output_dir'),
            }
        ],
        'error-codes': [
            {'code': int(code), 'description': text}
            for code, text in re.findall(r'^  ([1-9]\d*) +(.+)$', parser.epilog or '', re.M)
        ],
        'suggested-resources': {'ram': NEEDED_GB},
        'tags': {'domain': ['neuroinformatics', 'mri'], 'application-type': ['bids']},
    }


def _key(name: str) -> str:
    return f'[{name.upper()}]'


def _inputs(action: argparse.Action) -> Iterator[Content]:
    """Describe one argument of the parser; some have two inputs."""
    about = {'description': (action.help or '') % {'prog': PROG}}
    if action.dest == 'output_dir':
        # A new folder is a word. One that exists is mounted into the container.
        new, old = _output_dirs(action)
        yield {**_input(new, 'String'), **about, 'value-key': _key(action.dest)}
        yield {**_input(old, 'File'), **about, 'value-key': _key(action.dest)}
    elif isinstance(action, argparse.BooleanOptionalAction):
        for flag in action.option_strings:
            name = flag.removeprefix('--').replace('-', '_')
            yield {**_input(name, 'Flag'), **about, 'command-line-flag': flag}
    else:
        found = {**_input(action.dest), **about, **_value(action)}
        if action.option_strings:
            found['command-line-flag'] = _flag(action)
        else:
            found['optional'] = False
        yield found


def _input(name: str, kind: str = '') -> Content:
    title = name.replace('_', ' ').capitalize()
    return {'id': name, 'name': title, 'type': kind, 'optional': True, 'value-key': _key(name)}


def _output_dirs(action: argparse.Action) -> tuple[str, str]:
    return f'new_{action.dest}', f'existing_{action.dest}'


def _flag(action: argparse.Action) -> str:
    """Return the first long name of an option, or else its first."""
    names = action.option_strings
    return next((name for name in names if name.startswith('--')), names[0])


def _value(action: argparse.Action) -> Content:
    """Describe what values an argument takes, as far as Boutiques can tell values apart."""
    if action.nargs == 0:
        return {'type': 'Flag'}
    several = {'list': True, 'min-list-entries': 1} if action.nargs == '+' else {}
    if action.choices:
        return {'type': 'String', 'value-choices': list(action.choices), **several}
    value = _converted(action, '1')
    if isinstance(value, Path) and action.dest not in WRITTEN:
        return {'type': 'File', **several}
    if isinstance(value, int):
        least = 0 if _converted(action, '0') == 0 else 1
        return {'type': 'Number', 'integer': True, 'minimum': least, **several}
    return {'type': 'String', **several}


def _converted(action: argparse.Action, text: str) -> Any:
    """Return what the parser makes of a text, or None if it refuses it."""
    try:
        return action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError:
        return None


def _groups(actions: list[argparse.Action]) -> Iterator[Content]:
    """Say which inputs exclude each other."""
    for action in actions:
        group: Content = {'id': f'{action.dest}_choice', 'mutually-exclusive': True}
        if action.dest == 'output_dir':
            names = list(_output_dirs(action))
            yield {**group, 'name': 'Output folder', 'members': names, 'one-is-required': True}
        elif isinstance(action, argparse.BooleanOptionalAction):
            names = [flag.removeprefix('--').replace('-', '_') for flag in action.option_strings]
            yield {**group, 'name': ' or '.join(action.option_strings), 'members': names}


if __name__ == '__main__':
    PATH.write_text(json.dumps(descriptor(), indent=2) + '\n', encoding='utf-8')
