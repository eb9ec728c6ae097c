"""Correlation of a segmentation's measures of confidence with its true Dice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from page import table
from scipy.stats import spearmanr

from synthseg_bids.files import read_table, write_table
from synthseg_bids.labels import LESION, channels_of

MEASURES = {
    'confidence': 'Mean posterior of a structure',
    'flip_dice': 'Dice of the straight and the mirrored pass',
}
#: Least number of scans for a correlation.
FEWEST = 10


def write_confidence(path: Path, found: Mapping[str, np.ndarray]) -> None:
    """Write confidence and flip Dice (by channel) of each scan; lesions are left out."""
    rows = []
    for scan, measures in found.items():
        for label, values in zip(channels_of(len(measures.T)), measures.T, strict=True):
            if label.index not in (0, LESION):
                cells = {
                    name: 'n/a' if np.isnan(value) else f'{value:.4f}'
                    for name, value in zip(MEASURES, values, strict=True)
                }
                rows.append({'scan': scan, 'index': str(label.index), **cells})
    write_table(path, ('scan', 'index', *MEASURES), rows)


def confidence_table(measures: Path, scans: Path) -> str:
    """Tabulate the rank correlation of each measure with the true Dice.

    Parameters
    ----------
    measures : Path
        From :func:`write_confidence`.
    scans : Path
        Dice of each label of each scan, from ``synthseg evaluate``.

    Returns
    -------
    str
        Empty where there are no measures.
    """
    dice = {
        (row['scan'], row['index']): float(row['dice'])
        for row in read_table(scans)
        if row['kind'] == 'label' and row['dice'] != 'n/a'
    }
    rows = [row for row in read_table(measures) if (row['scan'], row['index']) in dice]
    lines = []
    for name, title in MEASURES.items():
        known = [row for row in rows if row[name] != 'n/a']
        pairs = {
            key: (float(row[name]), dice[key])
            for row in known
            for key in [(row['scan'], row['index'])]
        }
        if len({scan for scan, _ in pairs}) < FEWEST:
            return ''
        by_scan = [_column(pairs, 0, scan) for scan in sorted({scan for scan, _ in pairs})]
        means = np.array([np.mean(values, 0) for values in by_scan])
        within = [
            _correlation(np.array(values))
            for index in sorted({index for _, index in pairs})
            if len(values := _column(pairs, 1, index)) >= FEWEST
        ]
        lines.append([
            title,
            str(len(means)),
            f'{_correlation(means):.2f}',
            f'{np.median([value for value in within if not np.isnan(value)] or np.nan):.2f}',
        ])  # fmt: skip
    return table(
        'Rank correlation (Spearman) with the true Dice',
        ['Measure', 'Scans', 'means over structures', 'each structure (median)'],
        lines,
    )


def _correlation(pairs: np.ndarray) -> float:
    """Return Spearman's correlation of (n, 2) pairs; NaN where either is constant."""
    return float(spearmanr(*pairs.T).statistic) if np.ptp(pairs, 0).all() else float('nan')


def _column(
    pairs: Mapping[tuple[str, str], tuple[float, float]], part: int, value: str
) -> list[tuple[float, float]]:
    """Return the pairs of one scan (part 0) or of one label (part 1)."""
    return [pair for key, pair in pairs.items() if key[part] == value]
