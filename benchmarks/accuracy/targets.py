"""Compare the measured network with the targets of the next one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from synthetic import NOISY

from synthseg_bids.files import read_table
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.summary import ALL_CONTRASTS

from .real import geometric_mean

Rows = Sequence[Mapping[str, str]]
UNKNOWN = 'n/a'
#: Structures for which more is allowed, since protocols differ.
DIFFICULT = ('amygdala', 'accumbens')
ACCUMBENS = ('26', '58')


class Target(NamedTuple):
    """One target: the measure, the wanted value, the measured value, whether it is met."""

    text: str
    wanted: str
    reached: str
    met: str


def find_targets(tables: Path) -> list[Target]:
    """Compare the tables with the targets; what was not measured is ``n/a``."""
    real, generated = (read_table(tables / f'{n}_scans.tsv') for n in ('real', 'generated'))
    adults = mean_dice(real, 'adults, T1w')
    return [
        at_least('adults, T1w: mean Dice', 0.885, average(adults)),
        at_least('adults, T1w: Dice of each scan', 0.86, adults),
        *(
            at_least(f'{contrast}: Dice of each scan', low, mean_dice(real, contrast))
            for contrast, low in (
                ('infants, T1w', 0.82),
                ('infants, T2w', 0.82),
                ('old age, T1w', 0.87),
                ('multiple sclerosis, T2w', 0.83),
                ('multiple sclerosis, FLAIR', 0.81),
            )
        ),
        *generated_targets(generated, read_table(tables / 'generated_structures.tsv')),
        real_volumes(real, read_table(tables / 'real_structures.tsv')),
        *lesion_targets(read_table(tables / 'real_lesions.tsv')),
    ]


def mean_dice(scans: Rows, contrast: str) -> list[float]:
    """Return the mean Dice over the paper's structures of each scan of a contrast."""
    return [
        float(row['dice'])
        for row in scans
        if row['structure'] == MEAN_NAME and row['contrast'] == contrast
    ]


def average(values: Sequence[float]) -> list[float]:
    """Return the mean as a list; empty of no values."""
    return [sum(values) / len(values)] if values else []


def spread(values: Sequence[float]) -> str:
    """Write one value, or the range of several."""
    texts = dict.fromkeys(f'{value:.3f}' for value in (min(values), max(values)))
    return ' to '.join(texts)


def verdict(met: bool) -> str:
    """Write whether a target is met."""
    return 'yes' if met else 'no'


def at_least(text: str, low: float, values: Sequence[float]) -> Target:
    """Return a target that no value is below a limit."""
    wanted = f'at least {low:g}'
    if not values:
        return Target(text, wanted, UNKNOWN, UNKNOWN)
    return Target(text, wanted, spread(values), verdict(min(values) >= low))


def within(text: str, low: float, high: float, ratios: Mapping[str, float]) -> Target:
    """Return a target that all ratios, by structure, lie within limits."""
    wanted = f'{low:.2f} to {high:.2f}'
    if not ratios:
        return Target(text, wanted, UNKNOWN, UNKNOWN)
    first, last = (pick(ratios, key=lambda name: ratios[name]) for pick in (min, max))
    reached = f'{ratios[first]:.3f} ({first}) to {ratios[last]:.3f} ({last})'
    return Target(text, wanted, reached, verdict(low <= ratios[first] <= ratios[last] <= high))


def generated_targets(scans: Rows, structures: Rows) -> list[Target]:
    """Compare the scans generated from held-out label maps with their targets."""
    dice = {name: mean_dice(scans, name) for name in ('midl2020', 'synthseg2023', NOISY)}
    limits = {'midl2020': (0.875, 0.95, 1.05), 'synthseg2023': (0.83, 0.92, 1.08)}
    found = [
        at_least(f'{name}: mean Dice', low, average(dice[name]))
        for name, (low, _, _) in limits.items()
    ]
    text, wanted = f'{NOISY}: mean Dice below that of synthseg2023', 'at most 0.03'
    if dice[NOISY] and dice['synthseg2023']:
        lost = average(dice['synthseg2023'])[0] - average(dice[NOISY])[0]
        found.append(Target(text, wanted, f'{lost:.3f}', verdict(lost <= 0.03)))
    else:
        found.append(Target(text, wanted, UNKNOWN, UNKNOWN))
    for name, (_, low, high) in limits.items():
        text = f'{name}: volume ratio of each structure'
        found.append(within(text, low, high, volume_ratios(structures, name)))
    return found


def volume_ratios(structures: Rows, contrast: str) -> dict[str, float]:
    """Return the mean volume ratio of each structure in the scans of a contrast."""
    return {
        row['structure']: float(row['volume_ratio'])
        for row in structures
        if row['contrast'] == contrast and row['volume_ratio'] != UNKNOWN
    }


def accumbens_ratio(scans: Rows) -> float:
    """Return the mean volume ratio of the accumbens, which is not one of the 12 structures."""
    volumes: dict[str, list[float]] = {}
    for row in scans:
        if row['index'] in ACCUMBENS and float(row['reference_volume_mm3']) > 0:
            both = volumes.setdefault(row['scan'], [0.0, 0.0])
            both[0] += float(row['volume_mm3'])
            both[1] += float(row['reference_volume_mm3'])
    return geometric_mean([ours / theirs for ours, theirs in volumes.values() if ours > 0])


def real_volumes(scans: Rows, structures: Rows) -> Target:
    """Compare the volumes of real individuals with those of their references."""
    ratios = volume_ratios(structures, ALL_CONTRASTS)
    wanted = f'0.90 to 1.10 ({" and ".join(DIFFICULT)}: 0.85 to 1.15)'
    text = 'Real individuals: volume ratio of each structure'
    if not ratios:
        return Target(text, wanted, UNKNOWN, UNKNOWN)
    ratios['accumbens'] = accumbens_ratio(scans)
    outside = {
        name: ratio
        for name, ratio in ratios.items()
        if not abs(round(ratio - 1, 3)) <= (0.15 if name in DIFFICULT else 0.1)
    }
    reached = 'outside: ' + ', '.join(f'{name} {ratio:.3f}' for name, ratio in outside.items())
    return Target(text, wanted, reached if outside else 'all within', verdict(not outside))


def lesion_targets(rows: Rows) -> list[Target]:
    """Compare the lesions with the masks; healthy adults are to have hardly any."""
    drawn = [
        row
        for row in rows
        if row['contrast'] == 'multiple sclerosis, FLAIR' and row['reference_ml'] != UNKNOWN
    ]
    off = [abs(float(row['volume_ml']) / float(row['reference_ml']) - 1) for row in drawn]
    healthy = [float(row['volume_ml']) for row in rows if row['contrast'] == 'adults, T1w']
    return [
        at_least('Lesions, FLAIR: Dice of each scan', 0.5, known(row['dice'] for row in drawn)),
        at_most('Lesions, FLAIR: volume differs by', 0.4, off, '{:.0%}'),
        at_most('Lesions, healthy adults, T1w: ml', 1, healthy, '{:.2f}'),
    ]


def known(cells: Iterable[str]) -> list[float]:
    """Return the numbers of a column, without those that are unknown."""
    return [float(cell) for cell in cells if cell != UNKNOWN]


def at_most(text: str, high: float, values: Sequence[float], form: str) -> Target:
    """Return a target that no value is above a limit."""
    wanted = f'at most {form.format(high)}'
    if not values:
        return Target(text, wanted, UNKNOWN, UNKNOWN)
    largest = max(values)
    met = math.isfinite(largest) and largest <= high
    return Target(text, wanted, f'{form.format(largest)} at most', verdict(met))
