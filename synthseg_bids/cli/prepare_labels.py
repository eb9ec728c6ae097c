"""``synthseg prepare-labels``: make label maps of heads of FreeSurfer's label maps of brains.

IN is an ``aseg`` or ``aparc+aseg`` (.nii, .nii.gz, .mgz), or a folder of them. OUT receives a
label map for ``synthseg train`` of each, beside it a JSON file with its age group, its source and
the labels that it does not distinguish, and a picture.
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
        help='make label maps of heads of label maps of brains',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', type=Path, metavar='IN', help='label map or folder of them')
    parser.add_argument('out', type=Path, metavar='OUT', help='output folder')
    parser.add_argument(
        '--heads', type=Path, nargs='+', default=[], metavar='DIR',
        help="donors of what surrounds the brain: SynthSeg's label maps, or BrainWeb's heads "
        '(default: fluid alone surrounds it)',
    )  # fmt: skip
    parser.add_argument(
        '--table', type=Path, metavar='TSV',
        help='columns name, age (infant, adult, old) and, if known, dataset, licence, remarks',
    )  # fmt: skip
    parser.add_argument(
        '--age-group', default='adult', help='of maps that no table names (default: adult)'
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
