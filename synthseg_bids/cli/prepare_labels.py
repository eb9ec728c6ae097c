"""``synthseg prepare-labels``: convert FreeSurfer's label maps of brains to those of heads.

IN is an ``aseg`` or ``aparc+aseg`` (.nii, .nii.gz, .mgz), or a folder of them. Writes to OUT, for
each, a label map for ``synthseg train``, a JSON file with its age group, source and merged labels,
and a figure.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'prepare-labels',
        help='convert label maps of brains to label maps of heads',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', type=Path, metavar='IN', help='label map or folder of them')
    parser.add_argument('out', type=Path, metavar='OUT', help='output folder')
    parser.add_argument(
        '--heads',
        type=Path,
        nargs='+',
        default=[],
        metavar='DIR',
        help="label maps of heads for the tissue around the brain: SynthSeg's or BrainWeb's "
        '(default: only CSF surrounds the brain)',
    )
    parser.add_argument(
        '--table',
        type=Path,
        metavar='TSV',
        help='columns name, age (infant, adult, old) and, if known, dataset, licence, remarks',
    )
    parser.add_argument(
        '--age-group', default='adult', help='age group of maps not in the table (default: adult)'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..reports.figures import label_map_picture
    from ..synth.label_maps import find_label_maps
    from ..synth.prepare_labels import find_donors, prepare_map
    from ..synth.prepared_files import find_facts, read_facts, save_prepared

    paths = find_label_maps(args.source)
    table = read_facts(args.table) if args.table else {}
    donors = find_donors(args.heads)
    args.out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        prepared = prepare_map(path, donors, number)
        facts = find_facts(table, path)
        _, sidecar = save_prepared(args.out, path, prepared, facts, args.age_group)
        label_map_picture(prepared.labels, sidecar.with_suffix('.png'))
        done = ', '.join(f'{key} {value}' for key, value in prepared.notes.items())
        logger.info('%s: %s; merged: %s', path.name, done, prepared.merged or 'none')
    return 0
