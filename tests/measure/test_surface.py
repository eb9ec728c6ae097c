"""Distances between surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.measure.overlap import compare_to_reference
from synthseg_bids.measure.summary import scan_rows, summarise_structures
from synthseg_bids.measure.surface import surface_distances


def naive(first, second, spacing):
    """Return the two distances, by all pairs of voxels."""

    def border(mask):
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(3):
            for step in (1, -1):
                inner &= np.roll(padded, step, axis)
        return np.argwhere(padded & ~inner) * spacing

    a, b = border(first), border(second)
    far = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
    there, back = far.min(1), far.min(0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return hd95, np.concatenate([there, back]).mean()


@pytest.mark.parametrize('spacing', [(1, 1, 1), (0.5, 1.2, 3)])
def test_distances_are_those_of_all_pairs(rng, spacing):
    first, second = (rng.random((7, 8, 6)) < share for share in (0.3, 0.6))
    found = surface_distances(first, second, spacing)
    np.testing.assert_allclose(found, naive(first, second, np.array(spacing)))


@pytest.mark.parametrize('shift', [0, 1, 3])
def test_a_shifted_slab_is_as_far_as_it_was_shifted(shift):
    first, second = np.zeros((2, 30, 30, 12), bool)
    first[:, :, 3:5] = second[:, :, 3 + shift : 5 + shift] = True
    found = surface_distances(first, second, (1, 1, 2))
    assert found.hd95 == pytest.approx(2 * shift, abs=1e-6)


def test_what_is_absent_has_no_distance():
    some, none = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    assert np.isnan(surface_distances(some, none, (1, 1, 1))).all()
    assert np.isnan(surface_distances(none, none, (1, 1, 1))).all()


def test_structures_are_summarised_over_scans(rng):
    affine = np.diag([1.0, 1, 2, 1])
    rows = []
    for number in range(6):
        truth = np.zeros((24, 20, 16), np.int16)
        truth[2:12, 2:18, 2:14], truth[12:22, 2:18, 2:14] = 2, 41
        truth[4 : 8 + number % 3, 6:10, 4:8], truth[16:20, 6:10, 4:8] = 17, 53
        ours = truth.copy()
        # One layer more of the hippocampus on one side.
        ours[16:20, 6:11, 4:8] = 53
        compared = compare_to_reference(ours, affine, truth, affine, surfaces=True)
        rows += scan_rows(f'sub-{number}', 'T1w' if number % 2 else 'T2w', 'fs', compared)
    found = {
        row['contrast']: row
        for row in summarise_structures(rows)
        if row['structure'] == 'hippocampus'
    }
    assert found['all']['n'] == 6
    assert found['T1w']['n'] == 3
    assert 1.1 < found['all']['volume_ratio'] < 1.2
    assert 0 < found['all']['surface_distance_mm'] < 0.5
    assert found['all']['hd95_mm'] == pytest.approx(0.5)
    assert 0.3 < found['all']['volume_icc'] < 1
    assert np.isnan(found['T1w']['volume_icc'])
    amygdala = [row for row in summarise_structures(rows) if row['structure'] == 'amygdala']
    assert amygdala == []
