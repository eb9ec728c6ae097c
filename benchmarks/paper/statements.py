"""Test statements of the paper about the systems with our numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from synthseg_bids.files import read_table
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.stats import mean_of_known
from synthseg_bids.measure.summary import bootstrap_interval

COLUMNS = ('statement', 'measure', 'paper', 'here', 'ci_low', 'ci_high', 'scans', 'verdict')
HOLDS, FAILS, OPEN, ABSENT = 'holds', 'does not hold', 'undecided', 'not measured'

Rows = Sequence[Mapping[str, Any]]


def published(system: str, condition: str = 'all') -> float:
    """Look up a mean Dice of the paper; NaN if it gives none."""
    table = read_table(Path(__file__).with_name('published.tsv'))
    values = {(row['system'], row['condition']): float(row['dice']) for row in table}
    return values.get((system.replace('shipped', 'synthseg'), condition), float('nan'))


def published_seconds(system: str) -> float:
    """Look up a time per scan of the paper."""
    table = read_table(Path(__file__).with_name('published_seconds.tsv'))
    return {row['system']: float(row['seconds']) for row in table}[system]


@dataclass(frozen=True)
class Comparison:
    """A statement that one system is more accurate than another one.

    Attributes
    ----------
    text : str
    better, worse : str
        Systems. They are compared in the scans that neither has seen.
    conditions : tuple of str
        Of the two in the table of the paper's numbers.
    chosen : callable
        Of which contrasts.
    trained_on : bool
        Compare in the scans that the better one was trained on instead.
    """

    text: str
    better: str
    worse: str
    conditions: tuple[str, str] = ('all', 'all')
    chosen: Callable[[str], bool] = lambda contrast: True
    trained_on: bool = False


COMPARISONS = (
    Comparison('SynthSeg is more accurate than SAMSEG', 'synthseg', 'samseg'),
    Comparison('The shipped SynthSeg is more accurate than SAMSEG', 'shipped', 'samseg'),
    Comparison('SynthSeg is more accurate than SynthSeg-rule', 'synthseg', 'rule'),
    Comparison(
        'On T1w scans, which its priors are of, SynthSeg-rule is less accurate than SynthSeg',
        'synthseg', 'rule', ('T1w', 'T1w'), 'T1w'.__eq__,
    ),
    Comparison(
        'On T1w scans of its own data set the supervised network is more accurate than SynthSeg',
        'supervised', 'synthseg', ('own T1w', 'T1w'), 'T1w'.__eq__, trained_on=True,
    ),
    Comparison(
        'On T1w scans of other data sets the supervised network is less accurate than SynthSeg',
        'synthseg', 'supervised', ('T1w', 'other T1w'), 'T1w'.__eq__,
    ),
    Comparison(
        'On other contrasts the supervised network is less accurate than SynthSeg',
        'synthseg', 'supervised', ('all', 'other contrasts'), 'T1w'.__ne__,
    ),
)  # fmt: skip

#: Statements about the shipped network, which the paper does not have.
NOT_OF_THE_PAPER = tuple(one.text for one in COMPARISONS if one.better == 'shipped')


def judge(scans: Rows) -> list[dict[str, Any]]:
    """Test each statement with the overlaps.

    Parameters
    ----------
    scans : sequence of mapping
        Rows of scans.tsv.

    Returns
    -------
    list of dict
        With the keys :data:`COLUMNS`.
    """
    means = [row for row in scans if row['structure'] == MEAN_NAME]
    return [*(compare(means, one) for one in COMPARISONS), contrasts(means), times(means)]


def per_scan(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the overlap of each scan, averaged over the networks that segmented it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row['scan'], []).append(row['dice'])
    return {scan: mean_of_known(values) for scan, values in found.items()}


def compare(means: Rows, one: Comparison) -> dict[str, Any]:
    """Judge by the paired differences and the 95 % confidence interval of their mean."""
    own = [row for row in means if one.chosen(row['contrast'])]
    seen = 'trained on' if one.trained_on else 'no'
    first, second = (
        per_scan(row for row in own if row['system'] == system and row['seen'] == wanted)
        for system, wanted in ((one.better, seen), (one.worse, 'no'))
    )
    differences = [first[scan] - second[scan] for scan in first if scan in second]
    low, high = bootstrap_interval(differences)
    verdict = ABSENT if not differences else HOLDS if low > 0 else FAILS if high < 0 else OPEN
    pair = zip((one.better, one.worse), one.conditions, strict=True)
    paper = [published(system, condition) for system, condition in pair]
    return {
        'statement': one.text,
        'measure': 'difference in Dice',
        'paper': round(paper[0] - paper[1], 2),
        'here': mean_of_known(differences),
        'ci_low': low,
        'ci_high': high,
        'scans': len(differences),
        'verdict': verdict,
    }


def contrasts(means: Rows) -> dict[str, Any]:
    """Judge whether SynthSeg is as good in every contrast as it is in the paper.

    A contrast of a single scan decides nothing.
    """
    own = [row for row in means if row['system'] == 'synthseg']
    by_contrast = [
        per_scan(row for row in own if row['contrast'] == contrast).values()
        for contrast in sorted({row['contrast'] for row in own})
    ]
    averages = [mean_of_known(dice) for dice in by_contrast]
    paper = round(published('synthseg', 'T1w') - published('synthseg', 'PDw'), 2)
    width = max(averages) - min(averages) if len(averages) > 1 else float('nan')
    verdict = HOLDS if width <= paper else FAILS
    if min(map(len, by_contrast), default=0) < 2:
        verdict = OPEN
    return {
        'statement': 'SynthSeg is about as accurate in one contrast as in another',
        'measure': 'difference in Dice between best and worst contrast',
        'paper': paper,
        'here': width,
        'scans': len(per_scan(own)),
        'verdict': ABSENT if width != width else verdict,
    }


def times(means: Rows) -> dict[str, Any]:
    """Judge whether SynthSeg is faster than SAMSEG."""
    seconds = {
        system: [r['seconds'] for r in means if r['system'] == system and r['seconds']]
        for system in ('synthseg', 'samseg')
    }
    known = all(seconds.values())
    ratio = median(seconds['samseg']) / median(seconds['synthseg']) if known else float('nan')
    return {
        'statement': 'SynthSeg is faster than SAMSEG',
        'measure': 'ratio of times per scan',
        'paper': round(published_seconds('samseg') / published_seconds('synthseg')),
        'here': ratio,
        'scans': len(seconds['samseg']),
        'verdict': ABSENT if not known else HOLDS if ratio > 1 else FAILS,
    }
