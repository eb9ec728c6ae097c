"""Isotonic regression of Dice on confidence, how well it predicts, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

Rows = Sequence[Mapping[str, str]]
Fit = dict[str, list[float]]
#: Kind of the scans that the fit is not made from.
REAL = 'real'
#: Scans of similar confidence from which the error of a prediction is found.
NEIGHBOURS = 20


def values(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence and Dice of scans, sorted by confidence."""
    pairs = sorted((float(row['confidence']), float(row['dice'])) for row in rows)
    confidence, dice = np.array(pairs).reshape(-1, 2).T
    return confidence, dice


def fit(rows: Rows) -> Fit:
    """Fit Dice to the confidence of one group of structures.

    Parameters
    ----------
    rows : sequence of mapping
        With the columns ``scan``, which begins with the participant, ``confidence`` and ``dice``.

    Returns
    -------
    dict of str to list of float
        Nodes to interpolate between: ``confidence``, increasing; ``dice``, increasing; ``error``,
        the root mean square error of predictions for scans of similar confidence, made from
        heads that were left out of the regression.
    """
    centres, dice = nodes(*values(rows))
    confidence, _, residuals = held_out(rows)
    error = [
        float(np.sqrt(np.mean(residuals[np.argsort(abs(confidence - x))[:NEIGHBOURS]] ** 2)))
        for x in centres
    ]
    return {
        name: [round(float(value), 4) for value in column]
        for name, column in (('confidence', centres), ('dice', dice), ('error', error))
    }


def nodes(confidence: np.ndarray, dice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a step function, and return the centres of its steps (Oron and Flournoy 2017).

    Parameters
    ----------
    confidence, dice : (n,) array

    Returns
    -------
    confidence, dice : (n_steps,) array
        Increasing.
    """
    distinct, where, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    found = isotonic_regression(np.bincount(where, dice) / counts, weights=counts)
    steps = [slice(a, b) for a, b in pairwise(found.blocks)]
    centres = [np.average(distinct[step], weights=counts[step]) for step in steps]
    return np.array(centres), found.x[found.blocks[:-1]]


def heads(rows: Rows) -> set[str]:
    """Name the heads that scans were made from."""
    return {_head(row) for row in rows}


def _head(row: Mapping[str, str]) -> str:
    return row['scan'].partition('_')[0]


def held_out(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict the scans of each head from those of the others.

    Returns
    -------
    confidence, dice, residuals : (n,) array
        Residuals are Dice minus prediction.
    """
    parts = []
    for head in sorted(heads(rows)):
        confidence, dice = values([row for row in rows if _head(row) == head])
        others = nodes(*values([row for row in rows if _head(row) != head]))
        parts.append((confidence, dice, dice - np.interp(confidence, *others)))
    confidence, dice, residuals = (np.concatenate(part) for part in zip(*parts, strict=True))
    return confidence, dice, residuals


def draw(rows: Rows, groups: Mapping[str, Fit], path: Path) -> None:
    """Draw the scans of every group, real ones apart, and the fit with its error."""
    figure = Figure(figsize=(11, 6), layout='constrained')
    axes = figure.subplots(2, max(1, (len(groups) + 1) // 2), squeeze=False).ravel()
    for axis, (group, found) in zip(axes, groups.items(), strict=False):
        own = [row for row in rows if row['group'] == group]
        for real, color in ((False, '0.65'), (True, 'tab:red')):
            shown = values([row for row in own if (row['kind'] == REAL) == real])
            label = 'real scans' if real else 'generated scans'
            axis.plot(*shown, '.', color=color, markersize=5, label=label)
        confidence, dice, error = (np.array(found[key]) for key in found)
        axis.plot(confidence, dice, color='tab:blue', label='expected Dice')
        axis.fill_between(confidence, dice - error, dice + error, color='tab:blue', alpha=0.2)
        axis.set(title=group.replace('_', ' '), xlim=(0.3, 1), ylim=(0, 1))
    axes[0].legend(fontsize='small')
    figure.supxlabel('Confidence')
    figure.supylabel('Dice')
    figure.savefig(path, dpi=100)


def calibration(rows: Rows, groups: Mapping[str, Fit]) -> list[dict[str, float]]:
    """Say how well the fit predicts, by group.

    Returns
    -------
    list of dict
        ``scans``, ``dice``, ``bias`` (mean of Dice minus prediction), ``error`` (root mean square)
        and ``correlation`` (Pearson's, of prediction and Dice; NaN where either is constant), of
        real scans. The same with ``generated_`` before it, of those that the fit was made for,
        each predicted from the other heads.
    """
    found = []
    for group, nodes_of in groups.items():
        own = [row for row in rows if row['group'] == group]
        dice, expected = predicted([row for row in own if row['kind'] == REAL], nodes_of)
        _, generated, residuals = held_out([row for row in own if row['kind'] != REAL])
        found.append(
            _summary(dice, dice - expected)
            | {f'generated_{k}': v for k, v in _summary(generated, residuals).items()}
        )
    return found


def predicted(rows: Rows, found: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Return the Dice of scans and what the fit of their group expects."""
    confidence, dice = values(rows)
    return dice, np.interp(confidence, found['confidence'], found['dice'])


def below(rows: Rows, groups: Mapping[str, Fit], limit: float) -> dict[str, int]:
    """Count the groups of real scans below a limit: by Dice, by expected Dice, by both."""
    counts = dict.fromkeys(('dice', 'expected', 'both'), 0)
    for group, found in groups.items():
        real = [row for row in rows if (row['group'], row['kind']) == (group, REAL)]
        low, expected_low = (part < limit for part in predicted(real, found))
        for name, flags in zip(counts, (low, expected_low, low & expected_low), strict=True):
            counts[name] += int(flags.sum())
    return counts


def _summary(dice: np.ndarray, residuals: np.ndarray) -> dict[str, float]:
    if not len(dice):
        return {'scans': 0, **dict.fromkeys(('dice', 'bias', 'error', 'correlation'), np.nan)}
    expected = dice - residuals
    varied = len(dice) > 1 and np.ptp(dice) > 0 and np.ptp(expected) > 0
    return {
        'scans': len(dice),
        'dice': float(dice.mean()),
        'bias': float(residuals.mean()),
        'error': float(np.sqrt((residuals**2).mean())),
        'correlation': float(np.corrcoef(expected, dice)[0, 1]) if varied else float('nan'),
    }
