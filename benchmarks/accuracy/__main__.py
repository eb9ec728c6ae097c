"""Measure the accuracy of a model, and write docs/accuracy.rst: see ``make accuracy``.

Usage: python -m accuracy [--parts NAME ...] [--model FILE] ..., with ``benchmarks`` on the path

Real scans are those that docs/accuracy/real_sources.tsv lists, which is written by hand, as far as
they are in the data folder; generated ones are made from label maps that the model was not trained
on, hence with exact labels. What is absent is skipped, and its part of the page stays as it is.
Tables, figures and the facts of each run go to docs/accuracy/; the page is made from them alone
(--page-only does just that).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from synthetic import CONDITIONS

from synthseg_bids.files import write_text
from synthseg_bids.hardware.device import set_threads

from . import DATA, REPOSITORY
from .document import page
from .generated import measure_generated
from .real import measure_fast, measure_individuals, measure_templates
from .repeatability import measure_repeatability
from .steps import describe, keep

PARTS = {
    'real': measure_individuals,
    'templates': measure_templates,
    'fast': measure_fast,
    'repeatability': measure_repeatability,
    'generated': measure_generated,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what there are data for, then write the page."""
    args = parse(argv)
    tables = args.docs / 'accuracy'
    if not args.page_only:
        set_threads(args.threads)
        kept = nullcontext(args.work) if args.work else TemporaryDirectory(prefix='accuracy-')
        with kept as folder:
            for name in args.parts:
                work = Path(folder, name)
                facts = PARTS[name](args, work)
                if facts:
                    keep(work, tables, name, {**describe(args), **facts})
    write_text(args.docs / 'accuracy.rst', page(tables))
    print(f'{args.docs / "accuracy.rst"} written')
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m accuracy', description=(__doc__ or '').partition('\n')[0]
    )
    add = parser.add_argument
    add('--parts', nargs='+', choices=PARTS, default=[*PARTS], metavar='NAME',
        help=f'what to measure, of {", ".join(PARTS)} (default: all)')  # fmt: skip
    add('--data', type=Path, default=DATA, help='folder of data sets and label maps')
    add('--label-maps', type=Path, help='file or folder (default: label_maps in the data folder)')
    add('--held-out', nargs='+', default=[f'sub-{i}' for i in range(13, 17)], metavar='NAME')
    add('--model', default='default', help='name of a shipped model, or a .safetensors file')
    add('--scans', type=int, default=5, help='generated scans per label map and condition')
    add('--conditions', nargs='+', choices=CONDITIONS, default=CONDITIONS, metavar='NAME',
        help=f'kinds of generated scans, of {", ".join(CONDITIONS)} (default: all)')  # fmt: skip
    add('--limit', type=int, help='at most this many participants per data set, and label maps')
    add('--device', default='cpu', help='auto, cpu, cuda or cuda:N')
    add('--threads', type=int, help='CPU threads')
    add('--work', type=Path, metavar='DIR', help='keep segmentations here, to go on with')
    add('--docs', type=Path, default=REPOSITORY / 'docs', help='where the page goes')
    add('--page-only', action='store_true', help='rewrite the page from its tables')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
