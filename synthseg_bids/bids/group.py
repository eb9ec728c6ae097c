"""Tables over all images, rebuilt from the output dataset alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measures import MEAN_NAME

from .atomic import read_table, write_json, write_table
from .metadata import write_descriptions
from .names import parse_name
from .tables import TOTAL_NAME

logger = logging.getLogger(__name__)

_IDENTITY = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a if there are none.'},
    'source': {'Description': 'BIDS URI of the image.'},
    # Not suffix, acquisition and run: pybids takes such keys of a sidecar for entities, finds
    # that they differ from those in file names, and refuses the dataset.
    'contrast': {'Description': 'Suffix of the image.'},
    'acq_id': {'Description': 'The acq entity of the image.'},
    'run_id': {'Description': 'The run entity of the image.'},
}


def write_group_tables(out_dir: Path) -> None:
    """Gather the tables of all images into ``group_morph.tsv`` and ``group_dice.tsv``.

    Parameters
    ----------
    out_dir : Path
        The output dataset; ``descriptions.tsv`` is brought up to date as well.
    """
    names = [label.name for label in segmentation_labels() if label.index != 0]
    _write_group(out_dir, 'morph', 'volume_mm3', [*names, TOTAL_NAME], 'mm^3')
    _write_group(out_dir, 'dice', 'dice', [MEAN_NAME, *names], None)
    labels = {
        parsed[0]['desc']
        for path in _image_tables(out_dir, 'morph')
        if (parsed := parse_name(path.name))
    }
    write_descriptions(out_dir, sorted(labels))


def _image_tables(out_dir: Path, kind: str) -> Iterator[Path]:
    for pattern in ('sub-*/anat', 'sub-*/ses-*/anat'):
        yield from out_dir.glob(f'{pattern}/sub-*_seg-synthseg_desc-*_{kind}.tsv')


def _write_group(out_dir: Path, kind: str, value: str, names: list[str], unit: str | None) -> None:
    rows = [row for path in _image_tables(out_dir, kind) for row in _gather(path, value)]
    target = out_dir / f'group_{kind}.tsv'
    if not rows:
        target.unlink(missing_ok=True)
        target.with_suffix('.json').unlink(missing_ok=True)
        return
    columns: dict[str, Any] = dict(_IDENTITY)
    if kind == 'dice':
        columns['reference'] = {'Description': 'Dataset of the reference, a key of DatasetLinks.'}
    what = 'Dice overlap of' if kind == 'dice' else 'Volume of'
    for name in names:
        columns[name] = {'Description': f'{what} {name}.'} | ({'Units': unit} if unit else {})
    rows.sort(key=lambda row: (row['source'], row.get('reference', '')))
    write_table(target, columns, rows)
    write_json(target.with_suffix('.json'), columns)


def _gather(path: Path, value: str) -> list[dict[str, str]]:
    """Turn the long table of one image into one wide row per reference (or one row)."""
    parsed = parse_name(path.name)
    if parsed is None:
        return []
    entities = parsed[0]
    try:
        source = json.loads(path.with_suffix('.json').read_text(encoding='utf-8'))['Sources'][0]
    except (OSError, ValueError, LookupError, TypeError):
        logger.warning('%s: its sidecar does not name its source; left out of the group', path)
        return []
    identity = {
        'participant_id': f'sub-{entities["sub"]}',
        'session_id': f'ses-{entities["ses"]}' if 'ses' in entities else '',
        'source': source,
        'contrast': entities['desc'],
        'acq_id': entities.get('acq', ''),
        'run_id': entities.get('run', ''),
    }
    wide: dict[str, dict[str, str]] = {}
    for row in read_table(path):
        reference = row.get('reference', '')
        cells = wide.setdefault(reference, {**identity, 'reference': reference})
        cells[row['name']] = row[value]
    return list(wide.values())
