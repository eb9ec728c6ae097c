"""Accuracy over many scans: overlaps of each, means, and confidence intervals of the means.

A row of the table of scans is one number: the Dice overlap of one scan with one reference in one
structure. Summaries are over scans, so that every scan counts the same however many structures
its reference holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..labels import PAPER_STRUCTURES, segmentation_labels
from ..parcels import parcel_labels
from .overlap import MEAN_NAME
from .parcel_overlap import MEAN_OF_PARCELS
from .stats import MIN_VALUES, intraclass_correlations, mean_of_known

#: Name of the row that averages all labels but background.
MEAN_OF_LABELS = f'Mean-of-{len(segmentation_labels()) - 1}-Labels'
#: Contrast of the rows that summarise all scans.
ALL_CONTRASTS = 'all'

#: Measures of a structure other than its overlap.
MEASURES = ('volume_mm3', 'reference_volume_mm3', 'hd95_mm', 'surface_distance_mm')
SCAN_COLUMNS = ('reference', 'scan', 'contrast', 'kind', 'index', 'structure', 'dice', *MEASURES)
STRUCTURE_COLUMNS = (
    'reference', 'contrast', 'structure', 'n', 'dice', 'hd95_mm', 'surface_distance_mm',
    'volume_ratio', 'volume_icc'
)  # fmt: skip
PARCEL_COLUMNS = (
    'reference', 'contrast', 'parcel', 'n', 'dice', 'volume_ratio', 'volume_icc', 'volume_r'
)  # fmt: skip
SUMMARY_COLUMNS = (
    'reference', 'contrast', 'kind', 'structure', 'n', 'mean', 'sd', 'ci_low', 'ci_high'
)  # fmt: skip

_RESAMPLES = 10_000
_BLOCK = 1_000


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Estimate a confidence interval of a mean by the percentile bootstrap.

    Parameters
    ----------
    values : sequence of float
        One per scan, none of them NaN.
    level : float
        Between 0 and 1.
    seed : int
        The same values and seed give the same interval.

    Returns
    -------
    low, high : float
        NaN for fewer than two values.
    """
    known = np.asarray(values, dtype=float)
    if len(known) < 2:
        return float('nan'), float('nan')
    rng = np.random.default_rng(seed)
    # In blocks, so that thousands of scans still fit in memory.
    means = np.concatenate([
        known[rng.integers(len(known), size=(_BLOCK, len(known)))].mean(1)
        for _ in range(_RESAMPLES // _BLOCK)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def scan_rows(
    scan: str,
    contrast: str,
    reference: str,
    compared: Sequence[Mapping[str, Any]],
    parcels: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Make the rows of one scan.

    Parameters
    ----------
    scan, contrast, reference : str
        Name of the scan, its contrast, and the name of the reference.
    compared : sequence of mapping
        From :func:`synthseg_bids.measure.overlap.compare_to_reference`.
    parcels : sequence of mapping
        From :func:`synthseg_bids.measure.parcel_overlap.compare_parcels`.

    Returns
    -------
    list of dict
        With the keys :data:`SCAN_COLUMNS`: one per label, one per structure of the paper (left
        and right averaged), one per parcel, and the means over the paper's structures, over all
        labels and over all parcels.
        Structures that neither holds are NaN and do not enter the means.
    """
    labels = {row['index']: row for row in compared if 'index' in row}
    dice = {index: float(row['dice']) for index, row in labels.items()}
    structures = {
        name: mean_of_known(dice[side] for side in sides)
        for name, sides in PAPER_STRUCTURES.items()
    }
    whose = {'reference': reference, 'scan': scan, 'contrast': contrast}
    rows: list[dict[str, Any]] = [
        {**whose, 'kind': 'label', 'index': index, 'structure': row['name'], 'dice': dice[index]}
        | {name: float(row[name]) for name in MEASURES if name in row}
        for index, row in labels.items()
    ]
    for name, sides in PAPER_STRUCTURES.items():
        two = [labels[side] for side in sides]
        rows.append(
            {**whose, 'kind': 'structure', 'index': None, 'structure': name}
            | {'dice': structures[name]}
            | {key: _of_sides(key, two) for key in MEASURES if key in two[0]}
        )
    means = {
        MEAN_NAME: mean_of_known(structures.values()),
        MEAN_OF_LABELS: mean_of_known(dice.values()),
    }
    for row in parcels:
        if 'index' in row:
            rows.append({**whose, 'kind': 'parcel', 'structure': row['name'], **row})
        else:
            means[row['name']] = float(row['dice'])
    rows += [
        {**whose, 'kind': 'mean', 'index': None, 'structure': name, 'dice': mean}
        for name, mean in means.items()
    ]
    return [{column: row.get(column, float('nan')) for column in SCAN_COLUMNS} for row in rows]


def _of_sides(measure: str, sides: Sequence[Mapping[str, Any]]) -> float:
    """Add up the volumes of both sides, and average everything else."""
    values = [float(side[measure]) for side in sides]
    return sum(values) if measure.endswith('volume_mm3') else mean_of_known(values)


def summarise(rows: Iterable[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Average over scans, for each contrast and for all of them.

    Parameters
    ----------
    rows : iterable of mapping
        From :func:`scan_rows`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        With the keys :data:`SUMMARY_COLUMNS`, for the means and the paper's structures:
        number of scans in which the structure is known, mean over them, standard deviation
        (n - 1 in the denominator) and 95 % confidence interval of the mean.
    """
    table = pd.DataFrame(list(rows), columns=SCAN_COLUMNS)
    table = _with_all(table[~table['kind'].isin(['label', 'parcel'])])
    summary = []
    for key, dice in table.groupby(['reference', 'contrast', 'kind', 'structure'])['dice']:
        known = dice.dropna()
        low, high = bootstrap_interval(known.to_list(), seed=seed)
        values = (*key, len(known), mean_of_known(known), float(known.std()), low, high)
        summary.append(dict(zip(SUMMARY_COLUMNS, values, strict=True)))
    return sorted(summary, key=_summary_order)


def summarise_structures(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average all measures of the paper's structures, for each contrast and for all.

    Parameters
    ----------
    rows : iterable of mapping
        From :func:`scan_rows`.

    Returns
    -------
    list of dict
        With the keys :data:`STRUCTURE_COLUMNS`: means over the scans whose reference has the
        structure, the geometric mean of our volume divided by the reference's, and the intraclass
        correlation ICC(2,1) of the two, which wants five scans.
    """
    found = []
    for key, group in _known_in_reference(rows, 'structure'):
        means = group[['dice', 'hd95_mm', 'surface_distance_mm']].mean()
        values = (*key, len(group), *means, *_volume_agreement(group)[:2])
        found.append(dict(zip(STRUCTURE_COLUMNS, values, strict=True)))
    return sorted(found, key=_summary_order)


def summarise_parcels(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the measures of the parcels of the cortex, for each contrast and for all.

    Parameters
    ----------
    rows : iterable of mapping
        From :func:`scan_rows`.

    Returns
    -------
    list of dict
        With the keys :data:`PARCEL_COLUMNS`, one per parcel and side that a reference has: as in
        :func:`summarise_structures`, and Pearson's correlation of the volumes, which wants five
        scans, too.
    """
    found = []
    for key, group in _known_in_reference(rows, 'parcel'):
        values = (*key, len(group), group['dice'].mean(), *_volume_agreement(group))
        found.append(dict(zip(PARCEL_COLUMNS, values, strict=True)))
    order = {label.name: place for place, label in enumerate(parcel_labels())}
    return sorted(found, key=lambda row: (*_contrast_order(row), order[row['parcel']]))


def _known_in_reference(rows: Iterable[Mapping[str, Any]], kind: str) -> Any:
    """Group the rows of structures that the reference has; see :data:`SCAN_COLUMNS`."""
    table = pd.DataFrame(list(rows), columns=SCAN_COLUMNS)
    table = _with_all(table[(table['kind'] == kind) & (table['reference_volume_mm3'] > 0)])
    return table.groupby(['reference', 'contrast', 'structure'])


def _volume_agreement(group: pd.DataFrame) -> tuple[float, float, float]:
    """Return the geometric mean of the ratios of volumes, their ICC(2,1) and correlation."""
    volumes = group[['volume_mm3', 'reference_volume_mm3']].to_numpy()
    with np.errstate(divide='ignore', invalid='ignore'):
        ratio = float(np.exp(np.log(volumes[:, 0] / volumes[:, 1]).mean()))
        r = np.corrcoef(volumes.T)[0, 1] if len(volumes) >= MIN_VALUES else np.nan
    return ratio, intraclass_correlations(volumes)[0], float(r)


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """Repeat the rows, for all contrasts together."""
    return pd.concat([table, table.assign(contrast=ALL_CONTRASTS)])


def _contrast_order(row: Mapping[str, Any]) -> tuple[str, bool, str]:
    """Sort by reference, then contrast with all of them last."""
    return row['reference'], row['contrast'] == ALL_CONTRASTS, row['contrast']


def _summary_order(row: Mapping[str, Any]) -> tuple[str, bool, str, int]:
    """Sort as :func:`_contrast_order` does, then as in the table of a scan."""
    structures = [MEAN_NAME, MEAN_OF_LABELS, MEAN_OF_PARCELS, *PAPER_STRUCTURES]
    return *_contrast_order(row), structures.index(row['structure'])


def structure_values(
    rows: Iterable[Mapping[str, Any]], reference: str
) -> dict[str, dict[str, list[float]]]:
    """Collect the overlaps of the paper's structures, for a figure.

    Parameters
    ----------
    rows : iterable of mapping
        From :func:`scan_rows`.
    reference : str

    Returns
    -------
    dict of str to dict of str to list of float
        Contrast, then structure, then one value per scan; NaN left out.
    """
    table = pd.DataFrame(list(rows), columns=SCAN_COLUMNS)
    table = table[(table['kind'] == 'structure') & (table['reference'] == reference)]
    return {
        str(contrast): {
            name: group.loc[group['structure'] == name, 'dice'].dropna().to_list()
            for name in PAPER_STRUCTURES
        }
        for contrast, group in table.groupby('contrast')
    }
