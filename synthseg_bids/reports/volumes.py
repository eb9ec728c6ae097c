"""Section of a report on volumes, compared with the group, and overlap with references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .charts import FEWEST_FOR_BOX, FEWEST_TO_COMPARE, strips
from .structures import Structure, parcels, parcels_of, structures, structures_of
from .tree import Image, Row, checked_rows, group_table, number


def describe_volumes(out_dir: Path, image: Image) -> dict[str, Any]:
    """Gather the volumes, each beside those of the images of the same contrast.

    Empty if there are none.
    """
    rows = checked_rows(out_dir / f'{image.stem}_morph.tsv')
    ml = {
        row['name']: value / 1000
        for row in rows
        if (value := number(row['volume_mm3'])) is not None
    }
    if not ml:
        return {}
    group = group_table(out_dir, 'morph').volumes_ml.get(image.series, {})
    z_scores = _outliers(out_dir, image)
    total = ml.get(TOTAL_NAME)
    n = len(group.get(TOTAL_NAME, ()))
    return {
        'n': n,
        'comparable': n >= FEWEST_TO_COMPARE,
        'dots': n < FEWEST_FOR_BOX,
        'rows': [_row(structure, ml, total, group, z_scores) for structure in structures_of(ml)],
        'parcels': [_row(parcel, ml, total, group, z_scores) for parcel in parcels_of(ml)],
        'total': total,
        'chart': strips([('total', total, group.get(TOTAL_NAME, np.empty(0)))], 'ml'),
    }


def _row(
    structure: Structure,
    ml: dict[str, float],
    total: float | None,
    group: dict[str, np.ndarray],
    z_scores: dict[str, float],
) -> dict[str, Any]:
    names = [label.name for label in structure.labels]
    values = [ml.get(name) for name in names]
    known = [value for value in values if value is not None]
    titles = ('left', 'right') if len(names) == 2 else (structure.title,)
    groups = [group.get(name, np.empty(0)) for name in names]
    asymmetry = (
        200 * (known[0] - known[1]) / sum(known) if len(known) == 2 and any(known) else None
    )
    return {
        'structure': structure,
        'sides': [(value, z_scores.get(name)) for value, name in zip(values, names, strict=True)],
        'asymmetry': asymmetry,
        'share': 100 * sum(known) / total if total and known else None,
        'chart': strips(list(zip(titles, values, groups, strict=True)), 'ml'),
    }


def _outliers(out_dir: Path, image: Image) -> dict[str, float]:
    """Return the robust z of the structures that are outliers."""
    found = {}
    for row in group_table(out_dir, 'outliers').by_image.get(image.key, ()):
        z = number(row['robust_z'])
        if row['table'] == 'morph' and z is not None:
            found[row['statistic']] = z
    return found


def describe_overlaps(out_dir: Path, image: Image) -> list[dict[str, Any]]:
    """Gather the Dice overlap with every reference."""
    by_reference: dict[str, dict[str, Row]] = {}
    for row in checked_rows(out_dir / f'{image.stem}_dice.tsv'):
        by_reference.setdefault(row['reference'], {})[row['name']] = row
    return [
        {
            'reference': reference,
            'mean': number(rows.get(MEAN_NAME, {}).get('dice')),
            'rows': _overlaps(rows),
        }
        for reference, rows in by_reference.items()
    ]


def _overlaps(rows: dict[str, Row]) -> list[tuple[Structure, list[float | None], float | None]]:
    """List structures, the overlap of each side and the difference of the volume in percent."""
    found = []
    for structure in (*structures(), *parcels()):
        sides = [rows[label.name] for label in structure.labels if label.name in rows]
        values = [number(row['dice']) for row in sides]
        if any(value is not None for value in values):
            ours, theirs = (
                sum(number(row[column]) or 0 for row in sides)
                for column in ('volume_mm3', 'reference_volume_mm3')
            )
            difference = 100 * (ours - theirs) / theirs if theirs else None
            found.append((structure, values, difference))
    return found
