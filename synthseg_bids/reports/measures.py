"""Data of the charts of the group report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .structures import parcels_of, structures, structures_of
from .tree import Image, group_table, read_json

#: Title of a measure, and its values by image.
Measure = tuple[dict[str, Any], pd.Series]


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
    keys = [image.key for image in images]
    found = []
    for entries, values in (*_volumes(out_dir), *_quality(out_dir), *_overlaps(out_dir)):
        ordered = values.reindex(keys)
        if ordered.notna().any():
            shown = [None if isnan(value) else value for value in ordered]
            found.append({**entries, 'values': shown})
    return found


def _volumes(out_dir: Path) -> Iterator[Measure]:
    ml = group_table(out_dir, 'morph').numbers / 1000
    entries: dict[str, Any] = {'group': 'Volumes', 'unit': 'ml'}
    total = {'name': 'Total intracranial', 'total': True, 'color': '#8899aa'}
    yield {**entries, **total}, ml.reindex(columns=[TOTAL_NAME])[TOTAL_NAME].round(3)
    shown = {'Volumes': structures_of(ml.columns), 'Volumes of parcels': parcels_of(ml.columns)}
    for group, structure in ((group, one) for group, some in shown.items() for one in some):
        sides = ml.reindex(columns=[label.name for label in structure.labels])
        about = {'group': group, 'name': structure.title, 'color': structure.color}
        yield {**entries, **about}, sides.sum(axis=1, skipna=False).round(3)


def _quality(out_dir: Path) -> Iterator[Measure]:
    dictionary = read_json(out_dir / 'group_qc.json')
    for name, values in group_table(out_dir, 'qc').numbers.round(4).items():
        # A measure that is the same everywhere is not plotted.
        if values.nunique() > 1:
            unit = dictionary.get(str(name), {}).get('Units', '')
            title = str(name).replace('_', ' ')
            yield {'group': 'Quality control', 'name': title, 'unit': unit}, values


def _overlaps(out_dir: Path) -> Iterator[Measure]:
    table = group_table(out_dir, 'dice')
    columns = {'Mean of twelve structures': [MEAN_NAME]}
    of_parcels = parcels_of(table.numbers.columns)
    columns |= {s.title: [label.name for label in s.labels] for s in (*structures(), *of_parcels)}
    references = np.array([row['reference'] for row in table.rows])
    for reference, rows in table.numbers.groupby(references):
        for title, names in columns.items():
            entries = {'group': f'Dice with {reference}', 'name': title, 'unit': ''}
            yield entries, rows.reindex(columns=names).mean(axis=1).round(4)
