"""Statistics over images: outliers, and agreement of repeated measurements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

#: Least number of values from which outliers are determined.
MIN_VALUES = 5


class Spread(NamedTuple):
    """Robust centre and scale of a sample.

    Attributes
    ----------
    centre, scale : float
        Median, and an estimate of the standard deviation; NaN for fewer than five values.
    n : int
        Values that are not NaN.
    """

    centre: float
    scale: float
    n: int


def mean_of_known(values: Iterable[float]) -> float:
    """Average the values that are not NaN.

    Examples
    --------
    >>> mean_of_known([0.5, float('nan'), 1.0]), mean_of_known([])
    (0.75, nan)
    """
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float('nan')


def median_and_deviation(sample: np.ndarray) -> tuple[float, float]:
    """Return the median, and a standard deviation of which up to half the sample can be wrong.

    Parameters
    ----------
    sample : float array
        Without NaN.

    Returns
    -------
    median, deviation : float
        The latter is 1.4826 times the median absolute deviation, which for a normal distribution
        is its standard deviation.
    """
    median = float(np.median(sample))
    return median, 1.4826 * float(np.median(abs(sample - median)))


def robust_spread(values: np.ndarray) -> Spread:
    """Estimate centre and scale of a sample.

    Parameters
    ----------
    values : (n,) float array
        NaN are left out.

    Returns
    -------
    Spread
        The scale is 1.4826 times the median absolute deviation from the median or, where more
        than half of the values are the same, 1.2533 times the mean absolute deviation (Iglewicz
        and Hoaglin, How to Detect and Handle Outliers, 1993). Both estimate the standard
        deviation of a normal distribution.

    Examples
    --------
    >>> robust_spread(np.array([1, 2, 3, 4, 100.0]))
    Spread(centre=3.0, scale=1.4826, n=5)
    """
    known = values[~np.isnan(values)]
    if len(known) < MIN_VALUES:
        return Spread(np.nan, np.nan, len(known))
    centre, scale = median_and_deviation(known)
    return Spread(centre, scale or 1.2533 * float(abs(known - centre).mean()), len(known))


def robust_z(values: np.ndarray) -> np.ndarray:
    """Compute the distance of each value from the centre, in robust standard deviations.

    Parameters
    ----------
    values : (n,) float array

    Returns
    -------
    (n,) float array
        NaN for unknown values, and for all where fewer than five are known; 0 where all known
        values are the same.
    """
    centre, scale, _ = robust_spread(values)
    return (values - centre) / (scale or 1.0)


def regression_residuals(
    values: np.ndarray, predictor: np.ndarray, fitted: np.ndarray
) -> np.ndarray:
    """Subtract from each column of values the straight line that best predicts it.

    Parameters
    ----------
    values : (n, k) float array
        NaN where unknown.
    predictor : (n,) float array
        NaN where unknown.
    fitted : (n,) boolean array
        Rows that the lines are fitted to, by least squares.

    Returns
    -------
    (n, k) float array
        Of all rows, in the unit of the values; NaN where value or predictor is unknown, and in
        columns with fewer than five known rows to fit, or whose predictor does not vary.
    """
    residuals = np.full(values.shape, np.nan)
    for column, value in enumerate(values.T):
        known = fitted & ~np.isnan(value + predictor)
        if known.sum() >= MIN_VALUES and np.ptp(predictor[known]) > 0:
            # NumPy's, since importing SciPy's linear regression takes a second of each process.
            line = np.polyfit(predictor[known], value[known], 1)
            residuals[:, column] = value - np.polyval(line, predictor)
    return residuals


def intraclass_correlations(scores: np.ndarray) -> tuple[float, float]:
    """Compute the reliability of single measurements of several targets by several raters.

    Parameters
    ----------
    scores : (n_targets, n_raters) float array
        None unknown.

    Returns
    -------
    icc_2_1 : float
        ICC(2,1) of Shrout and Fleiss (Psychological Bulletin 86:420, 1979): two-way random
        effects, absolute agreement. Raters that differ by a constant lower it.
    icc_3_1 : float
        ICC(3,1): two-way mixed effects, consistency. Such constants do not count.
        Both are NaN for fewer than five targets or two raters, or where nothing varies.
    """
    n, k = scores.shape
    if n < MIN_VALUES or k < 2:
        return float('nan'), float('nan')
    mean = scores.mean()
    of_targets, of_raters = scores.mean(axis=1, keepdims=True), scores.mean(axis=0, keepdims=True)
    between_targets = k * ((of_targets - mean) ** 2).sum() / (n - 1)
    between_raters = n * ((of_raters - mean) ** 2).sum() / (k - 1)
    residual = ((scores - of_targets - of_raters + mean) ** 2).sum() / ((n - 1) * (k - 1))
    shared = between_targets + (k - 1) * residual
    agreement = shared + k * (between_raters - residual) / n
    with np.errstate(invalid='ignore', divide='ignore'):
        return (
            float((between_targets - residual) / agreement),
            float((between_targets - residual) / shared),
        )


def within_target_cv(scores: np.ndarray) -> float:
    """Compute the coefficient of variation of repeated measurements.

    Parameters
    ----------
    scores : (n_targets, n_raters) float array
        Not negative, none unknown.

    Returns
    -------
    float
        Root mean square over targets of standard deviation (n - 1) divided by mean, in percent;
        targets whose measurements are all 0 are left out. NaN if none is left.

    Examples
    --------
    >>> round(within_target_cv(np.array([[9.0, 11.0], [100.0, 100.0]])), 3)
    10.0
    """
    scores = scores[scores.mean(axis=1) > 0]
    if len(scores) == 0 or scores.shape[1] < 2:
        return float('nan')
    ratios = scores.std(axis=1, ddof=1) / scores.mean(axis=1)
    return float(100 * np.sqrt((ratios**2).mean()))
