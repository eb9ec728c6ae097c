"""Positions of the marks of small charts, which are inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Least number of images whose quartiles are drawn; of fewer, each is drawn as a dot.
FEWEST_FOR_BOX = 12
#: Least number of images for a comparison.
FEWEST_TO_COMPARE = 3
_WIDTH, _LANE, _PAD = 280, 15, 7

Lane = tuple[str, float | None, np.ndarray]


def format_number(value: float | None, unit: str = '') -> str:
    """Round to three digits; empty if there is no value.

    Examples
    --------
    >>> format_number(1234.5), format_number(12.345, 'ml'), format_number(0.01234)
    ('1234', '12.3 ml', '0.0123')
    """
    if value is None:
        return ''
    digits = 0 if abs(value) < 5e-5 else int(max(0, 2 - np.floor(np.log10(abs(value)))))
    return f'{value:.{min(digits, 4)}f}{" " if unit else ""}{unit}'


def strips(lanes: Sequence[Lane], unit: str) -> dict[str, Any]:
    """Compute the positions of values among those of a group, one lane for each value.

    Parameters
    ----------
    lanes : sequence of (name, value, group)
        ``value`` is the one of this image, ``group`` those of all images, this one included,
        in ascending order.
    unit : str

    Returns
    -------
    dict
        What the macro ``strips`` draws; empty if no lane has a group to compare with.
    """
    if min(group.size for _, _, group in lanes) < FEWEST_TO_COMPARE:
        return {}
    low = float(min(group[0] for _, _, group in lanes))
    high = float(max(group[-1] for _, _, group in lanes))
    if low == high:
        low, high = low - 0.5, high + 0.5

    def x(value: float) -> float:
        return round(_PAD + (value - low) / (high - low) * (_WIDTH - 2 * _PAD), 1)

    drawn = []
    for i, (_, value, group) in enumerate(lanes):
        few = group.size < FEWEST_FOR_BOX
        drawn.append({
            'middle': i * _LANE + _LANE / 2 + 1,
            'marker': None if value is None else x(min(max(value, low), high)),
            'dots': [x(float(one)) for one in group] if few else [],
            'box': [] if few else [x(_percentile(group, p)) for p in (5, 25, 50, 75, 95)],
        })  # fmt: skip
    return {
        'width': _WIDTH,
        'height': len(lanes) * _LANE + 2,
        'left': _PAD,
        'right': _WIDTH - _PAD,
        'lanes': drawn,
        'text': '. '.join(
            _in_words(name, value, group, unit)
            for name, value, group in lanes
            if value is not None
        ),
    }


def lines(
    times: Sequence[float], series: Sequence[tuple[str, Sequence[float]]], most: float, text: str
) -> dict[str, Any]:
    """Compute the positions of values at some times, a line for each series.

    Parameters
    ----------
    times : sequence of float
        Not all equal.
    series : sequence of (name, values)
        In percent around 0.
    most : float
        Largest value that is shown.
    text : str
        What the chart shows, in words.

    Returns
    -------
    dict
        What the macro ``line_chart`` draws.
    """
    height, width = 3 * _LANE, _WIDTH // 2
    low, span = min(times), max(times) - min(times)
    x = [round(_PAD + (time - low) / span * (width - 2 * _PAD), 1) for time in times]

    def y(value: float) -> float:
        return round(height / 2 - value / most * (height / 2 - 4), 1)

    drawn = {name: list(zip(x, map(y, values), strict=True)) for name, values in series}
    return {'width': width, 'height': height, 'lines': drawn, 'text': text, 'most': most}


def _in_words(name: str, value: float, group: np.ndarray, unit: str) -> str:
    below = np.searchsorted(group, value) / group.size
    return (
        f'{name}: {format_number(value, unit)}; {below:.0%} of {group.size} are smaller, '
        f'their median is {format_number(_percentile(group, 50), unit)}'
    )


def _percentile(ascending: np.ndarray, percent: float) -> float:
    """Interpolate between sorted values, as NumPy does, which would sort them for every image.

    Examples
    --------
    >>> _percentile(np.array([1.0, 2, 4]), 75)
    3.0
    """
    place = percent / 100 * (ascending.size - 1)
    below = int(place)
    above = min(below + 1, ascending.size - 1)
    return float(ascending[below] + (place - below) * (ascending[above] - ascending[below]))
