"""Run ``python -m paper``, with ``benchmarks`` on the path: see ``make paper``."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence

from synthseg_bids.errors import UsageError
from synthseg_bids.files import write_text

from .document import page
from .figures import draw_figure4, draw_figure5
from .options import parse
from .slices import write_slices
from .steps import StepError
from .systems import PICTURE, absent, pictures, runs, scans_with_references, steps
from .tables import write_tables

logger = logging.getLogger('paper')


def main(argv: Sequence[str] | None = None) -> int:
    """Do what was asked for; return the exit code."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    failed: list[str] = []
    try:
        if args.stage in ('all', 'run'):
            failed = run_all(args)
        if args.stage in ('all', 'tables'):
            tabulate(args)
    except UsageError as error:
        print(f'paper: {error}', file=sys.stderr)
        return 1
    tables = args.docs / 'paper'
    if args.stage in ('all', 'figures'):
        draw_figure4(tables)
        draw_figure5(tables)
    if args.stage in ('all', 'page'):
        write_text(args.docs / 'paper.rst', page(tables))
    if failed:
        print(
            f'paper: {", ".join(failed)} failed; the same command goes on there', file=sys.stderr
        )
    return 1 if failed else 0


def run_all(args: argparse.Namespace) -> list[str]:
    """Train, segment and evaluate, one system after the other; return the names of failed ones."""
    pairs = scans_with_references(args)
    names = sorted({pair.scan.entities['sub'] for pair in pairs})
    found = runs(args, pairs)
    work = {}
    for run in found:
        reason = absent(args, run)
        if reason:
            logger.warning('%s is left out: %s', run.name, reason)
        else:
            work[run.name] = steps(args, run, names)
    # The last, since one of them is of priors.
    work |= {figure: [step] for figure, step in pictures(args, found, pairs).items()}
    failed = []
    for name, own in work.items():
        try:
            for step in own:
                step.run()
        except StepError as error:
            logger.error('%s: %s', name, error)
            failed.append(name)
    return failed


def tabulate(args: argparse.Namespace) -> None:
    """Write the tables of what there is."""
    pairs = scans_with_references(args)
    found = runs(args, pairs)
    write_slices(args, found, pairs, write_tables(args, found, pairs))
    for figure, step in pictures(args, found, pairs).items():
        drawn = step.folder / PICTURE
        if drawn.exists():
            shutil.copyfile(drawn, args.docs / 'paper' / f'{figure}.png')


if __name__ == '__main__':
    sys.exit(main())
