"""``synthseg prepare-labels``: make label maps of heads of FreeSurfer's label maps of brains.

IN is an ``aseg`` or ``aparc+aseg`` (.nii, .nii.gz, .mgz), or a folder of them. OUT receives a
label map for ``synthseg train`` of each, beside it a JSON file with its age group, its source and
the labels that it does not distinguish, and a picture.
"""

from __future__ import annotations

import argparse
import json
import logging
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..synth.prepare_labels import PreparedMap

logger = logging.getLogger(__name__)

#: Columns of the table that sidecars take up, by their key.
COLUMNS = {'Source': 'dataset', 'License': 'licence', 'Remarks': 'remarks'}


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
    from ..synth.label_maps import find_label_maps
    from ..synth.prepare_labels import find_donors, prepare_map

    paths = find_label_maps(args.source)
    rows = _read_table(args.table) if args.table else {}
    donors = find_donors(args.heads)
    args.out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        name = path.name.partition('.')[0]
        prepared = prepare_map(path, donors, number)
        row = next((rows[key] for key in rows if name in (key, f'{key}_dseg')), {})
        _write(args.out / f'{name}.nii.gz', prepared, row, args.age_group)
        done = ', '.join(f'{key} {value}' for key, value in prepared.notes.items())
        logger.info('%s: %s; merged: %s', path.name, done, prepared.merged or 'none')
    return 0


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    import pandas as pd

    from ..files import read_text

    table = pd.read_csv(StringIO(read_text(path)), sep='\t', dtype=str, keep_default_na=False)
    return {str(row['name']): row for row in table.to_dict('records')}


def _write(path: Path, prepared: PreparedMap, row: dict[str, str], age_group: str) -> None:
    """Write a map, its sidecar and its picture."""
    from ..images.volume_io import write_image
    from ..reports.figures import label_map_picture

    write_image(path, prepared.labels, prepared.affine)
    sidecar: dict[str, Any] = {
        'AgeGroup': row.get('age') or age_group,
        'MergedLabels': prepared.merged,
        **{key: row[column] for key, column in COLUMNS.items() if row.get(column)},
        'Preparation': prepared.notes,
    }
    stem = path.with_name(path.name.partition('.')[0])
    stem.with_suffix('.json').write_text(json.dumps(sidecar, indent=2) + '\n', encoding='utf-8')
    label_map_picture(prepared.labels, stem.with_suffix('.png'))
