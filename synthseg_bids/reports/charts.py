"""Small charts as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .html import Html, el

#: With fewer images than this every one is a dot; with more, quartiles tell more.
FEWEST_FOR_BOX = 12
#: With fewer than this there is nothing to compare with.
FEWEST_TO_COMPARE = 3
#: The overlap drawn in the lightest and the difference in percent in the deepest shade.
_LEAST_DICE, _MOST_DIFFERENCE = 0.5, 30.0
_WIDTH, _LANE, _PAD = 280, 15, 7


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


def strips(lanes: Sequence[tuple[str, float | None, np.ndarray]], unit: str) -> Html:
    """Draw values against those of a group, a lane for each.

    Parameters
    ----------
    lanes : sequence of (name, value, group)
        ``value`` is the one of this image, ``group`` those of all images, this one included,
        in ascending order.
    unit : str

    Returns
    -------
    Html
        Empty if no lane has a group to compare with.
    """
    if min(group.size for _, _, group in lanes) < FEWEST_TO_COMPARE:
        return Html('')
    low = float(min(group[0] for _, _, group in lanes))
    high = float(max(group[-1] for _, _, group in lanes))
    if low == high:
        low, high = low - 0.5, high + 0.5

    def x(value: float) -> float:
        return round(_PAD + (value - low) / (high - low) * (_WIDTH - 2 * _PAD), 1)

    parts: list[Html] = []
    said = []
    for i, (name, value, group) in enumerate(lanes):
        middle = i * _LANE + _LANE / 2 + 1
        parts += _group(x, group, middle)
        if value is not None:
            place = x(min(max(value, low), high))
            size = 5.2
            diamond = f'M{place - size} {middle}l{size}-{size} {size} {size}-{size} {size}z'
            parts.append(el('path', class_='marker', d=diamond))
            below = np.searchsorted(group, value) / group.size
            said.append(
                f'{name}: {format_number(value, unit)}; {below:.0%} of {group.size} are smaller, '
                f'their median is {format_number(_percentile(group, 50), unit)}'
            )
    height = len(lanes) * _LANE + 2
    text = '. '.join(said)
    return el(
        'svg', el('title', text), parts,
        viewBox=f'0 0 {_WIDTH} {height}', width=_WIDTH, height=height, role='img', aria_label=text,
    )  # fmt: skip


def _group(x: Callable[[float], float], group: np.ndarray, middle: float) -> list[Html]:
    if group.size < FEWEST_FOR_BOX:
        dots = ''.join(f'M{x(float(value))} {middle}h0' for value in group)
        line = el('line', class_='axis', x1=_PAD, x2=_WIDTH - _PAD, y1=middle, y2=middle)
        return [line, el('path', class_='dots', d=dots)]
    p5, p25, p50, p75, p95 = (x(_percentile(group, p)) for p in (5, 25, 50, 75, 95))
    return [
        el('rect', class_='band', x=p5, y=middle - 3, width=round(p95 - p5, 1), height=6, rx=3),
        el('rect', class_='box', x=p25, y=middle - 3, width=round(p75 - p25, 1), height=6),
        el('line', class_='median', x1=p50, x2=p50, y1=middle - 5, y2=middle + 5),
    ]


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


def meter(share: float | None, text: str) -> Html:
    """Draw a share of 1 as a bar beside its number."""
    if share is None:
        return Html('')
    width = f'width:{100 * min(max(share, 0), 1):.0f}%'
    return el('span', el('i', el('b', style=width), aria_hidden='true'), text, class_='meter')


def dice_cell(value: float | None) -> Html:
    """Make a table cell that is the darker the closer the value is to 1."""
    if value is None:
        return el('td', class_='cell')
    share = min(max((value - _LEAST_DICE) / (1 - _LEAST_DICE), 0), 1)
    return _shaded(f'{value:.3f}', 'box', 80 * share)


def difference_cell(value: float | None, sign: str = '+') -> Html:
    """Make a table cell for percents that is the darker the farther the value is from 0."""
    if value is None:
        return el('td', class_='cell')
    return _shaded(f'{value:{sign}.1f}', 'marker', 45 * min(abs(value) / _MOST_DIFFERENCE, 1))


def variation_cell(value: float | None) -> Html:
    """Make a table cell for a coefficient of variation in percent."""
    return difference_cell(value, sign='')


def _shaded(text: str, color: str, percent: float) -> Html:
    style = f'background:color-mix(in srgb,var(--{color}) {percent:.0f}%,transparent)'
    return el('td', text, class_='num cell', style=style)
