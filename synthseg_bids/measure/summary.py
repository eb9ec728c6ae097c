"""Accuracy over many scans: overlaps of each, their means, and how sure those are.

A row of the table of scans is one number: the Dice overlap of one scan with one reference in one
structure. Summaries are over scans, so that every scan counts the same however many structures
its reference holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..labels import PAPER_STRUCTURES, segmentation_labels
from .overlap import MEAN_NAME

#: Name of the row that averages all labels but background.
MEAN_OF_LABELS = f'Mean-of-{len(segmentation_labels()) - 1}-Labels'
#: Contrast of the rows that summarise all scans.
ALL_CONTRASTS = 'all'

SCAN_COLUMNS = ('reference', 'scan', 'contrast', 'kind', 'index', 'structure', 'dice')
SUMMARY_COLUMNS = (
    'reference', 'contrast', 'kind', 'structure', 'n', 'mean', 'sd', 'ci_low', 'ci_high'
)  # fmt: skip

_RESAMPLES = 10_000
_BLOCK = 1_000


def mean_of_known(values: Iterable[float]) -> float:
    """Average what is not NaN.

    Examples
    --------
    >>> mean_of_known([0.5, float('nan'), 1.0]), mean_of_known([])
    (0.75, nan)
    """
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float('nan')


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
    scan: str, contrast: str, reference: str, compared: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Make the rows of one scan.

    Parameters
    ----------
    scan, contrast, reference : str
        Name of the scan, its contrast, and the name of the reference.
    compared : sequence of mapping
        From :func:`synthseg_bids.measure.overlap.compare_to_reference`.

    Returns
    -------
    list of dict
        With the keys :data:`SCAN_COLUMNS`: one per label, one per structure of the paper (left
        and right averaged), and the means over the paper's structures and over all labels.
        Structures that neither holds are NaN and do not enter the means.
    """
    labels = {row['index']: row for row in compared if 'index' in row}
    dice = {index: float(row['dice']) for index, row in labels.items()}
    structures = {
        name: mean_of_known(dice[side] for side in sides)
        for name, sides in PAPER_STRUCTURES.items()
    }
    values: list[tuple[str, int | None, str, float]] = [
        ('label', index, row['name'], dice[index]) for index, row in labels.items()
    ]
    values += [('structure', None, name, value) for name, value in structures.items()]
    values.append(('mean', None, MEAN_NAME, mean_of_known(structures.values())))
    values.append(('mean', None, MEAN_OF_LABELS, mean_of_known(dice.values())))
    return [
        dict(zip(SCAN_COLUMNS, (reference, scan, contrast, *value), strict=True))
        for value in values
    ]


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
        With the keys :data:`SUMMARY_COLUMNS`, for the two means and the paper's structures:
        number of scans in which the structure is known, mean over them, standard deviation
        (n - 1 in the denominator) and 95 % confidence interval of the mean.
    """
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for row in rows:
        if row['kind'] == 'label':
            continue
        for contrast in (row['contrast'], ALL_CONTRASTS):
            key = row['reference'], contrast, row['kind'], row['structure']
            found.setdefault(key, []).append(float(row['dice']))
    summary = []
    for key in sorted(found, key=_summary_order):
        known = [value for value in found[key] if not np.isnan(value)]
        low, high = bootstrap_interval(known, seed=seed)
        spread = float(np.std(known, ddof=1)) if len(known) > 1 else float('nan')
        values = (*key, len(known), mean_of_known(known), spread, low, high)
        summary.append(dict(zip(SUMMARY_COLUMNS, values, strict=True)))
    return summary


def _summary_order(key: tuple[str, str, str, str]) -> tuple[str, bool, str, int]:
    """Sort by reference, then contrast with all of them last, then as in the table of a scan."""
    reference, contrast, _, structure = key
    structures = [MEAN_NAME, MEAN_OF_LABELS, *PAPER_STRUCTURES]
    return reference, contrast == ALL_CONTRASTS, contrast, structures.index(structure)


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
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row['kind'] == 'structure' and row['reference'] == reference:
            of_contrast = values.setdefault(
                row['contrast'], {name: [] for name in PAPER_STRUCTURES}
            )
            if not np.isnan(row['dice']):
                of_contrast[row['structure']].append(float(row['dice']))
    return dict(sorted(values.items()))
