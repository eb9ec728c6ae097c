"""Command lines of the BIDS App and files of options: read, checked and written."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import LEVELS, ConfigError, RunConfig, read_config
from .parser import PROG, build_parser


def parse_args(argv: Sequence[str] | None = None) -> RunConfig:
    """Turn a command line into settings; exits with 2 if it makes no sense.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    RunConfig
    """
    chosen: dict[str, Any] = read_options(build_parser(), argv)
    chosen = {**LEVELS[chosen.get('level', 'minimal')], **chosen}
    # Lists become tuples, so that the settings cannot change.
    fixed: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()
    }
    return RunConfig(**fixed)


def read_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the options given on a command line, or in the file that it names.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        From :func:`build_parser`; may have more options.
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    dict
    """
    given = vars(parser.parse_args(argv))
    given.pop('notrack', None)
    path = given.pop('config_file', None)
    chosen = {**(_saved_options(parser, path, given) if path else {}), **given}
    names = [name for name, _ in chosen.get('derivatives', ())]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        parser.error(f'-d/--derivatives: {", ".join(twice)} given twice')
    if 'run_uuid' in chosen and not chosen.get('reports_only'):
        parser.error('--run-uuid: only with --reports-only; every other run names itself')
    if chosen.get('bids_database_wipe') and 'bids_database_dir' not in chosen:
        parser.error('--bids-database-wipe: only with --bids-database-dir DIR')
    return chosen


def write_options(parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> list[str]:
    """Write options as on a command line, in words.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    options : mapping of str to object
        As :func:`read_options` returns them, or as TOML files have them. What is no option of
        the parser is left out.

    Returns
    -------
    list of str
    """
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    return [
        word
        for key, value in options.items()
        if key in actions
        for word in _words(actions[key], value)
    ]


def _saved_options(
    parser: argparse.ArgumentParser, path: Path, given: dict[str, Any]
) -> dict[str, Any]:
    """Read the options of a file, checked as if they stood on the command line."""
    try:
        settings = read_config(path)
    except ConfigError as error:
        parser.error(str(error))
    if 'level' in given:  # it stands for settings that the file has from its own level
        settings = {k: v for k, v in settings.items() if k not in LEVELS[given['level']]}
    words = [str(given[key]) for key in ('bids_dir', 'output_dir')] + ['participant']
    words += write_options(parser, settings)
    return vars(build_parser(f'{PROG}: {path}').parse_args(words))


def _words(action: argparse.Action, value: Any) -> list[str]:
    """Write one setting as on the command line."""
    option = action.option_strings[-1 if value is False else 0]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [option]
    if action.nargs == 0:
        return [option] * int(value)
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list):
        pairs = (item if isinstance(item, tuple) else (item,) for item in value)
        return [option, *('='.join(map(str, pair)) for pair in pairs)] if value else []
    if isinstance(value, tuple):
        value = '/'.join(map(str, value))
    return [f'{option}={value}' if option.startswith('--') else option + str(value)]
