"""Write options.rst, the options of synthseg-bids, from its parser.

Usage: python docs/write_options.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tables import list_table

from synthseg_bids.cli.parser import build_parser

INTRODUCTION = """\
Options
=======

.. Written by docs/write_options.py from the parser; do not edit.

All options of ``synthseg-bids``, named as in fMRIPrep where it has them, and after them those of
other BIDS Apps that are missing here, and why.
"""

MISSING_TITLE = """\
What is not there
-----------------
"""

#: Options of other BIDS Apps, or of SynthSeg, and why there are none here.
MISSING = {
    '--bids-database-dir, --bids-database-wipe': 'There is no database to keep: planning reads '
    'names of files and the first bytes of images alone, in seconds for ten thousand of them.',
    '--run-id, --task-id': '``--bids-filter-file`` chooses by any entity.',
    '--output-layout': 'There is one layout, that of BIDS derivatives.',
    '--subject-anatomical-reference': 'Images are never averaged or registered to each other.',
    '--echo mean': 'Every output has one image as its source. To segment a mean of echoes, save '
    'it as an image of its own; ``--echo first`` takes the echo that has most signal.',
    '--random-seed': 'Segmentation draws no random numbers. ``synthseg train`` has ``--seed``.',
    '--fs-license-file': 'No license is needed.',
    '--crashfile-format': 'Crash files are text. Pickles, the other format of Nipype, run code '
    'when they are opened.',
    '--sloppy': 'There is nothing to leave out: a small network, given as ``--model``, tests all '
    'steps in seconds.',
    '--crop': 'The part of an image that is segmented is as large as in training and is found by '
    'itself; ``--no-autocrop`` takes all of it. Where memory is short, images are cut into tiles.',
    '--parc': 'There is no network for cortical parcels yet.',
    '--robust': 'There is one network for all scans. Published weights, whichever, are given as '
    '``--model``.',
}


def main(path: Path) -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    for group in build_parser()._action_groups:
        rows = [_row(action) for action in group._group_actions if _is_ours(action)]
        if rows:
            title = (group.title or '').capitalize()
            parts += [f'{title}\n{"-" * len(title)}\n']
            parts += [list_table(('Option', 'What it does'), rows)]
    rows = [(f'``{option}``', why) for option, why in MISSING.items()]
    parts += [MISSING_TITLE, list_table(('Option', 'Why'), rows)]
    path.write_text('\n'.join(parts), encoding='utf-8')


def _is_ours(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction)


def _row(action: argparse.Action) -> tuple[str, str]:
    names = ', '.join(f'``{name}``' for name in action.option_strings or [action.dest])
    value = action.metavar or ('|'.join(map(str, action.choices)) if action.choices else '')
    shown = f' ``{value}``' if value and action.option_strings else ''
    return names + shown, ((action.help or '') % {'prog': 'synthseg-bids'}).replace('*', '\\*')


if __name__ == '__main__':
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name('options.rst'))
