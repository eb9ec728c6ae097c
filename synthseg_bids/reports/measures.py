"""The numbers behind the charts of the group report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .structures import structures
from .tree import IDENTITY, Image, Key, Row, group_table, key_of, number, read_json

_VOLUMES, _QUALITY = 'Volumes', 'Quality control'


def plotted_measures(out_dir: Path, images: Sequence[Image]) -> list[dict[str, Any]]:
    """Gather volumes, quality measures and overlaps, a list of values for each.

    Parameters
    ----------
    out_dir : Path
    images : sequence of Image
        In the order of the values.

    Returns
    -------
    list of dict
        With the keys ``group``, ``name``, ``unit``, ``color``, ``total`` (whether it is the
        intracranial volume) and ``values``; measures that no image has are left out.
    """
    order = {image.key: i for i, image in enumerate(images)}
    measures = [*_volumes(out_dir, order), *_quality(out_dir, order), *_overlaps(out_dir, order)]
    return [one for one in measures if any(value is not None for value in one['values'])]


def _measure(
    order: dict[Key, int],
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    digits: int,
    **entries: Any,
) -> dict[str, Any]:
    values: list[float | None] = [None] * len(order)
    for row in rows:
        found = value(row)
        if found is not None and key_of(row) in order:
            values[order[key_of(row)]] = round(found, digits)
    return {**entries, 'values': values}


def _volumes(out_dir: Path, order: dict[Key, int]) -> list[dict[str, Any]]:
    rows = group_table(out_dir, 'morph').rows
    total = {'group': _VOLUMES, 'name': 'Total intracranial', 'unit': 'ml', 'total': True}
    measures = [_measure(order, rows, _volume([TOTAL_NAME]), 3, color='#8899aa', **total)]
    for structure in structures():
        names = [label.name for label in structure.labels]
        entries = {'name': structure.title, 'unit': 'ml', 'color': structure.color}
        measures.append(_measure(order, rows, _volume(names), 3, group=_VOLUMES, **entries))
    return measures


def _volume(names: list[str]) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        known = [v for name in names if (v := number(row.get(name))) is not None]
        return sum(known) / 1000 if len(known) == len(names) else None

    return value


def _quality(out_dir: Path, order: dict[Key, int]) -> list[dict[str, Any]]:
    rows = group_table(out_dir, 'qc').rows
    dictionary = read_json(out_dir / 'group_qc.json')
    names = [name for name in (rows[0] if rows else ()) if name not in IDENTITY]
    measures = []
    for name in names:
        about = dictionary.get(name, {})
        entries = {'name': name.replace('_', ' '), 'unit': about.get('Units', '')}
        measures.append(
            _measure(order, rows, lambda row, name=name: number(row.get(name)), 4,  # type: ignore[misc]
                     group=_QUALITY, **entries)
        )  # fmt: skip
    # Of a measure that is the same everywhere there is nothing to see.
    return [one for one in measures if len({v for v in one['values'] if v is not None}) > 1]


def _overlaps(out_dir: Path, order: dict[Key, int]) -> list[dict[str, Any]]:
    rows = group_table(out_dir, 'dice').rows
    measures = []
    for reference in sorted({row['reference'] for row in rows}):
        of_reference = [row for row in rows if row['reference'] == reference]
        names = {'Mean of twelve structures': [MEAN_NAME]}
        names |= {s.title: [label.name for label in s.labels] for s in structures()}
        for title, columns in names.items():
            entries = {'group': f'Dice with {reference}', 'name': title, 'unit': ''}
            measures.append(_measure(order, of_reference, _mean(columns), 4, **entries))
    return measures


def _mean(names: list[str]) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        known = [v for name in names if (v := number(row.get(name))) is not None]
        return sum(known) / len(known) if known else None

    return value
