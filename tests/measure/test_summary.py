from __future__ import annotations

import math

import numpy as np
import pytest

from synthseg_bids.labels import PAPER_STRUCTURES, segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME, compare_to_reference, paper_dice
from synthseg_bids.measure.summary import (
    ALL_CONTRASTS,
    MEAN_OF_LABELS,
    SCAN_COLUMNS,
    SUMMARY_COLUMNS,
    bootstrap_interval,
    scan_rows,
    structure_values,
    summarise,
)

LABELS = [label.index for label in segmentation_labels()]


@pytest.fixture
def compared(rng):
    """A segmentation that is right in most voxels; neither holds the right accumbens."""
    reference = rng.choice(LABELS, size=(12, 12, 12)).astype(np.int16)
    reference[reference == 58] = 0
    wrong = rng.random(reference.shape) < 0.3
    segmentation = np.where(wrong, 2, reference)
    return segmentation, reference, compare_to_reference(
        segmentation, np.eye(4), reference, np.eye(4)
    )  # fmt: skip


def test_rows_of_a_scan_agree_with_the_measures(compared):
    segmentation, reference, rows = compared
    made = scan_rows('s', 'T1w', 'ref', rows)
    assert all(tuple(row) == SCAN_COLUMNS for row in made)
    assert [row['kind'] for row in made] == ['label'] * 32 + ['structure'] * 12 + ['mean'] * 2
    expected = paper_dice(segmentation, reference)
    found = {row['structure']: row['dice'] for row in made if row['kind'] != 'label'}
    assert found[MEAN_NAME] == pytest.approx(expected.pop('mean'))
    assert {name: found[name] for name in PAPER_STRUCTURES} == pytest.approx(expected)
    dice = {row['index']: row['dice'] for row in made if row['kind'] == 'label'}
    assert math.isnan(dice[58])
    assert found[MEAN_OF_LABELS] == pytest.approx(np.nanmean(list(dice.values())))


def some_scans(values, contrast='T1w', reference='ref'):
    """Return rows of scans in which every structure has one overlap."""
    return [
        row
        for number, value in enumerate(values)
        for row in scan_rows(
            f'{contrast}{number}',
            contrast,
            reference,
            [{'index': i, 'name': str(i), 'dice': value} for i in LABELS[1:]],
        )
    ]


def test_summary_is_over_scans():
    rows = some_scans([0.2, 0.4, 0.9]) + some_scans([0.5, float('nan')], 'FLAIR')
    summary = summarise(rows)
    assert all(tuple(row) == SUMMARY_COLUMNS for row in summary)
    assert [row['contrast'] for row in summary[::14]] == ['FLAIR', 'T1w', ALL_CONTRASTS]
    by_key = {(row['contrast'], row['structure']): row for row in summary}
    t1w = by_key['T1w', MEAN_NAME]
    assert (t1w['n'], t1w['mean']) == (3, pytest.approx(0.5))
    assert t1w['sd'] == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert 0.2 <= t1w['ci_low'] < 0.5 < t1w['ci_high'] <= 0.9
    flair = by_key['FLAIR', 'thalamus']
    assert (flair['n'], flair['mean']) == (1, 0.5)
    assert math.isnan(flair['sd'])
    assert math.isnan(flair['ci_low'])
    assert by_key[ALL_CONTRASTS, MEAN_OF_LABELS]['n'] == 4


def test_references_are_not_mixed():
    summary = summarise(some_scans([0.1, 0.2]) + some_scans([0.8], reference='other'))
    n = {(row['reference'], row['contrast']): row['n'] for row in summary}
    assert n == {('ref', 'T1w'): 2, ('ref', 'all'): 2, ('other', 'T1w'): 1, ('other', 'all'): 1}


def test_bootstrap_is_repeatable_and_of_the_right_width(rng):
    values = rng.normal(0.7, 0.1, size=50).tolist()
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    assert (low + high) / 2 == pytest.approx(np.mean(values), abs=0.005)
    # the normal approximation
    width = 2 * 1.96 * np.std(values) / np.sqrt(50)
    assert high - low == pytest.approx(width, rel=0.05)
    assert bootstrap_interval([0.5, 0.5]) == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in bootstrap_interval([0.5]))


def test_structure_values_leave_out_the_unknown():
    rows = some_scans([0.2, 0.4]) + some_scans([float('nan')], 'FLAIR')
    values = structure_values(rows + some_scans([0.9], reference='other'), 'ref')
    assert list(values) == ['FLAIR', 'T1w']
    assert values['T1w'] == dict.fromkeys(PAPER_STRUCTURES, pytest.approx([0.2, 0.4]))
    assert values['FLAIR'] == {name: [] for name in PAPER_STRUCTURES}
