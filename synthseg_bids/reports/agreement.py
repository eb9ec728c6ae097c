"""Section of a report on the agreement between the images of one participant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids.bids.names import parse_name
from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.labels import LESION, LESION_TISSUES
from synthseg_bids.measure.overlap import MEAN_NAME

from .structures import Structure, mean_by_structure, structures_of
from .tree import Image, Row, checked_rows, number

_WHAT = {
    'contrasts': 'Contrasts of one session',
    'repeats': 'Repeated scans of one session',
    'visits': 'Visits',
}
Pair = tuple[str, str]


def read_agreement(out_dir: Path, participant: str, images: Sequence[Image]) -> dict[str, Any]:
    """Gather what ``agreement.html.j2`` shows: every pair of images, and all volumes.

    Empty if there is nothing to compare.
    """
    titles = {image.key: image.title for image in images}
    found: dict[str, dict[Pair, dict[str, Row]]] = {}
    for path in sorted((out_dir / participant).glob('**/anat/*_seg-*_agreement.tsv')):
        parsed = parse_name(path.name)
        method = parsed[0]['seg'] if parsed else ''
        for row in checked_rows(path):
            first, second = (titles.get((row[f'source_{i}'], method), '') for i in (1, 2))
            pair = (first, second)
            # The table may list images that no longer exist.
            if all(pair):
                pairs = found.setdefault(row['comparison'], {})
                pairs.setdefault(pair, {})[row['name']] = row
    if not found and len(images) < 2:
        return {}
    return {
        'comparisons': [
            {'title': title, **_comparison(found[kind])}
            for kind, title in _WHAT.items()
            if kind in found
        ],
        'titles': list(titles.values()),
        'volumes': _all_volumes(out_dir, images) if len(images) > 1 else [],
    }


def _comparison(pairs: dict[Pair, dict[str, Row]]) -> dict[str, Any]:
    shown = []
    for names, by_name in pairs.items():
        mean, total = by_name.get(MEAN_NAME, {}), by_name.get(TOTAL_NAME, {})
        shown.append({
            'name': ' ↔ '.join(names),
            'dice': number(mean.get('dice')),
            'difference': number(total.get('volume_difference')),
            'motion': [number(mean.get(name)) for name in ('rotation', 'shift', 'residual')],
        })  # fmt: skip
    columns = ('dice', 'volume_difference')
    return {
        'pairs': shown,
        'structures': {column: mean_by_structure(pairs.values(), column) for column in columns},
    }


def _all_volumes(out_dir: Path, images: Sequence[Image]) -> list[tuple[Any, ...]]:
    """List each structure with its volumes in ml in all images, and how much they vary.

    White matter includes lesions, which not all contrasts show, and which are listed besides.
    """
    by_image = []
    for image in images:
        rows = checked_rows(out_dir / f'{image.stem}_morph.tsv')
        by_image.append({row['name']: number(row['volume_mm3']) for row in rows})
    found = []
    for structure in _with_lesions(structures_of({name for row in by_image for name in row})):
        names = [label.name for label in structure.labels]
        values = [
            sum(volume.get(name) or 0 for name in names) / 1000 if names[0] in volume else None
            for volume in by_image
        ]
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if known else 0
        spread = 100 * float(np.std(known, ddof=1)) / mean if len(known) > 1 and mean else None
        found.append((structure, values, spread))
    return found


def _with_lesions(shown: Sequence[Structure]) -> Iterator[Structure]:
    """Add lesions, if they are among the structures, to the white matter of the cerebrum."""
    lesions = [label for structure in shown for label in structure.labels if label.index == LESION]
    for structure in shown:
        if lesions and structure.labels[0].index == LESION_TISSUES[0]:
            title = f'{structure.title}, lesions included'
            structure = Structure(title, (*structure.labels, *lesions))
        yield structure
