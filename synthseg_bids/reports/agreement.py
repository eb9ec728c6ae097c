"""How well the segmentations of one participant's images agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from synthseg_bids.bids.names import parse_name
from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .charts import dice_cell, difference_cell, format_number, variation_cell
from .html import Html, column_heads, el, join, table
from .page import section
from .structures import Structure, structure_name, structures
from .tree import Image, Row, checked_rows, number

_WHAT = {
    'contrasts': 'Contrasts of one session',
    'repeats': 'Repeated scans of one session',
    'visits': 'Visits',
}
_LEAD = (
    'Images are segmented one by one and never see each other. Here the label maps of two images '
    'are aligned rigidly by the centroids of their structures and compared. Between visits the '
    'brain itself may change.'
)
Pair = tuple[str, str]


def agreement_section(out_dir: Path, participant: str, images: Sequence[Image]) -> Html:
    """Compare the participant's images: overlap and volumes of every pair, then all volumes."""
    titles = {image.key: image.title for image in images}
    found: dict[str, dict[Pair, dict[str, Row]]] = {}
    for path in sorted((out_dir / participant).glob('**/anat/*_seg-*_agreement.tsv')):
        parsed = parse_name(path.name)
        method = parsed[0]['seg'] if parsed else ''
        for row in checked_rows(path):
            first, second = (titles.get((row[f'source_{i}'], method), '') for i in (1, 2))
            pair = (first, second)
            # Of an image that is no longer there, nothing can be told.
            if all(pair):
                pairs = found.setdefault(row['comparison'], {})
                pairs.setdefault(pair, {})[row['name']] = row
    blocks = [_comparison(title, found[kind]) for kind, title in _WHAT.items() if kind in found]
    volumes = _all_volumes(out_dir, images) if len(images) > 1 else None
    return section('agreement', 'Agreement between images', blocks, volumes, lead=_LEAD)


def _comparison(title: str, pairs: dict[Pair, dict[str, Row]]) -> Html:
    rows = []
    for (first, second), by_name in pairs.items():
        mean, total = by_name.get(MEAN_NAME, {}), by_name.get(TOTAL_NAME, {})
        rows.append([
            el('th', first, ' ↔ ', second, scope='row'),
            dice_cell(number(mean.get('dice'))),
            difference_cell(number(total.get('volume_difference'))),
            *(el('td', format_number(number(mean.get(name))), class_='num')
              for name in ('rotation', 'shift', 'residual')),
        ])  # fmt: skip
    shaded = ('Mean Dice', 'Intracranial volume, %')
    numbers = ('Rotation, °', 'Shift, mm', 'Residual, mm')
    head = ['Images', *column_heads(shaded, 'cell'), *column_heads(numbers)]
    names = [f'{first} ↔ {second}' for first, second in pairs]
    return join([
        el('h3', title),
        table(head, rows, class_='heat'),
        _by_structure('Dice of every structure', names, list(pairs.values()), 'dice', dice_cell),
        _by_structure('Volume difference of every structure, second minus first, %', names,
                      list(pairs.values()), 'volume_difference', difference_cell),
    ])  # fmt: skip


def _by_structure(
    title: str,
    names: list[str],
    pairs: list[dict[str, Row]],
    column: str,
    cell: Callable[[float | None], Html],
) -> Html:
    rows = [
        [
            structure_name(structure),
            *(cell(_mean_of_sides(by_name, structure, column)) for by_name in pairs),
        ]
        for structure in structures()
    ]
    head = ['Structure', *column_heads(names, 'cell')]
    return el('details', el('summary', title), table(head, rows, class_='heat'))


def _mean_of_sides(by_name: dict[str, Row], structure: Structure, column: str) -> float | None:
    values = [number(by_name.get(label.name, {}).get(column)) for label in structure.labels]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _all_volumes(out_dir: Path, images: Sequence[Image]) -> Html:
    """Tabulate the volumes of all images side by side, with how much they vary."""
    by_image = []
    for image in images:
        rows = checked_rows(out_dir / f'{image.stem}_morph.tsv')
        by_image.append({row['name']: number(row['volume_mm3']) for row in rows})
    body = []
    for structure in structures():
        names = [label.name for label in structure.labels]
        values = [
            sum(volume[name] or 0 for name in names) / 1000 if names[0] in volume else None
            for volume in by_image
        ]
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if known else 0
        spread = 100 * float(np.std(known, ddof=1)) / mean if len(known) > 1 and mean else None
        cells = [el('td', format_number(value), class_='num') for value in values]
        body.append([structure_name(structure), *cells, variation_cell(spread)])
    head = [
        'Structure',
        *column_heads([image.title for image in images]),
        *column_heads(['Coefficient of variation, %'], 'cell'),
    ]
    return el(
        'details',
        el('summary', 'Volumes of all images, ml (left and right together)'),
        table(head, body, class_='heat'),
    )
