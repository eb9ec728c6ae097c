"""Correlation of a segmentation's measures of confidence with its true Dice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from page import table
from scipy.stats import spearmanr

from synthseg_bids.files import write_table
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
        Empty where there are no measures, or of too few scans.
    """
    if not measures.exists():
        return ''
    true = pd.read_csv(scans, sep='\t').query('kind == "label"')[['scan', 'index', 'dice']]
    both = pd.read_csv(measures, sep='\t').merge(true.astype({'index': int}))
    lines = []
    for name, title in MEASURES.items():
        known = both[['scan', 'index', name, 'dice']].dropna()
        means = known.groupby('scan')[[name, 'dice']].mean()
        if len(means) < FEWEST:
            return ''
        labels = [label for _, label in known.groupby('index') if len(label) >= FEWEST]
        within = pd.Series([correlation(label[name], label['dice']) for label in labels]).median()
        overall = correlation(means[name], means['dice'])
        lines.append([title, str(len(means)), f'{overall:.2f}', f'{within:.2f}'])
    return table(
        'Rank correlation (Spearman) with the true Dice',
        ['Measure', 'Scans', 'means over structures', 'each structure (median)'],
        lines,
    )


def correlation(one: pd.Series, other: pd.Series) -> float:
    """Return Spearman's correlation; NaN where either is constant."""
    constant = one.nunique() < 2 or other.nunique() < 2
    return float('nan') if constant else float(spearmanr(one, other).statistic)
