"""The ``synthseg`` command: generate, train, segment single files, evaluate, view."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from ..errors import explain_error, is_out_of_memory
from ..hardware.processes import leave, restart_with_settings

#: Subcommands in the order of the help; each is a module of the same name with underscores.
COMMANDS = (
    'prepare-labels',
    'synthesize',
    'estimate-priors',
    'train',
    'train-parcels',
    'calibrate',
    'segment',
    'evaluate',
    'view',
    'import-weights',
)


class _Parser(argparse.ArgumentParser):
    """Parser of the command and its subcommands; options cannot be abbreviated."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, 'allow_abbrev': False})


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser, without importing PyTorch.

    Parameters
    ----------
    command : str, optional
        The only subcommand to import, if it is one (default: all of them).
    """
    parser = _Parser(prog='synthseg', description=__doc__)
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    subparsers = parser.add_subparsers(metavar='COMMAND', required=True)
    for name in COMMANDS if command not in COMMANDS else (command,):
        module = import_module(f'..cli.{name.replace("-", "_")}', __package__)
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns
    -------
    int
        0 on success, 1 if something failed, 130 if interrupted, 143 if terminated.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser(argv[0] if argv else None).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f'synthseg: {explain_error(error)}', file=sys.stderr)
        return 1
    except (ValueError, FloatingPointError) as error:
        print(f'synthseg: {error}', file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition('\n')[0] or 'no more to be had'
        print(f'synthseg: out of memory ({reason}); use a machine with more', file=sys.stderr)
        return 1


def entry() -> NoReturn:
    """Run as a program."""
    if sys.argv[1:2] in (['segment'], ['train'], ['train-parcels']):
        restart_with_settings()
    leave(main())


if __name__ == '__main__':
    entry()
