"""Section of the group report on the agreement of repeated images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.external.methods import OURS
from synthseg_bids.measure.overlap import MEAN_NAME

from .structures import Structure, mean_by_structure, parcels
from .tree import Row, group_table, number, series_name

#: Statistics of group_reliability.tsv that are shown.
_SHOWN = ('icc_2_1', 'cv', 'mean_difference')

Key = tuple[str, str, str]
#: A structure, or the total, and its values.
Means = tuple[Structure | None, list[float | None]]


def read_reliability(out_dir: Path) -> dict[str, Any]:
    """Gather overlaps by kind of pair, and the reliability of every structure.

    Returns
    -------
    dict
        ``overlaps``, ``pairs`` (titles of the columns), ``structures`` and ``parcels``; empty if
        there are no pairs.
    """
    by_pair: dict[Key, dict[str, Row]] = {}
    for row in group_table(out_dir, 'reliability').rows:
        by_pair.setdefault(_key(row), {})[row['name']] = row
    titles = []
    for (comparison, first, second), of_pair in by_pair.items():
        n = max(number(row['n_pairs']) or 0 for row in of_pair.values())
        titles.append(f'{comparison}: {_pair(first, second)} (n = {n:.0f})')
    tables: dict[str, Any] = {}
    of_parcels: dict[str, Any] = {}
    for column in _SHOWN:
        rows = mean_by_structure(by_pair.values(), column)
        total = [number(pair.get(TOTAL_NAME, {}).get(column)) for pair in by_pair.values()]
        tables[column] = _known([*rows, (None, total)])
        of_parcels[column] = _known(mean_by_structure(by_pair.values(), column, parcels()))
    overlaps = _overlaps(out_dir)
    if not overlaps and not any(tables.values()):
        return {}
    shown = {'structures': tables, 'parcels': of_parcels}
    return {'overlaps': overlaps, 'pairs': titles, **shown}


def _known(rows: list[Means]) -> list[Means]:
    """Return the rows of a table; none if there is no value in it."""
    return rows if any(value is not None for _, values in rows for value in values) else []


def _overlaps(out_dir: Path) -> list[tuple[str, str, int, list[float]]]:
    """Summarise the Dice of the pairs of images, by what they have in common."""
    found: dict[Key, list[float]] = {}
    for row in group_table(out_dir, 'agreement').rows:
        value = number(row.get(MEAN_NAME))
        if row['statistic'] == 'dice' and value is not None:
            found.setdefault(_key(row), []).append(value)
    return [
        (comparison, _pair(first, second), len(values), list(np.percentile(values, (50, 5, 95))))
        for (comparison, first, second), values in sorted(found.items())
    ]


def _key(row: Row) -> Key:
    first, second = (series_name(row[f'contrast_{i}'], row.get('method') or OURS) for i in (1, 2))
    return row['comparison'], first, second


def _pair(first: str, second: str) -> str:
    return first if first == second else f'{first} ↔ {second}'
