"""Constant backgrounds of any value, and empty fields."""

from __future__ import annotations

import numpy as np
import pytest
from stub_networks import LabelStub
from test_segmenter import segmenter

from synthseg_bids.images import background, resampling
from synthseg_bids.images.background import (
    constant_background,
    far_background,
    filled_box,
    without_far_background,
)
from synthseg_bids.inference import preprocess
from synthseg_bids.inference.preprocess import prepare
from synthseg_bids.inference.segmenter import Segmenter


@pytest.fixture
def brain(rng):
    """Return a brain of 20 to 100 on a background of 0."""
    scan = np.zeros((40, 36, 32), np.float32)
    scan[10:30, 9:27, 8:24] = rng.uniform(20, 100, (20, 18, 16))
    return scan


@pytest.mark.parametrize('value', [-1024, -1, -1e30, 1e6, -3.5])
def test_a_far_background_is_as_one_of_0(brain, value):
    filled = np.where(brain == 0, np.float32(value), brain)
    found, was = without_far_background(filled)
    assert was == np.float32(value)
    np.testing.assert_array_equal(found, brain)


def test_usual_scans_stay_as_they_are(brain, rng):
    air = np.abs(rng.normal(0, 2, brain.shape)).astype(np.float32)
    for scan in (brain, brain + 300 * (brain > 0), brain + air, air):
        found, was = without_far_background(scan)
        assert was is None
        assert found is scan
    assert constant_background(brain) == 0
    assert constant_background(brain + air) is None


def test_a_value_within_the_range_is_no_far_background(brain):
    scores = np.where(brain == 0, 0, brain - 60).astype(np.float32)
    assert far_background(scores) is None


def test_padding_beside_air_is_found(brain, rng):
    scan = brain + np.abs(rng.normal(0, 2, brain.shape)).astype(np.float32)
    padded = np.pad(scan, 8, constant_values=-1000)
    found, was = without_far_background(padded)
    assert was == -1000
    assert found.min() == 0
    np.testing.assert_array_equal(found[8:-8, 8:-8, 8:-8], scan)


def test_padded_corners_beside_air_are_found(brain, rng):
    """A circular field of view, as scanners pad it: most of the border is air with noise."""
    scan = brain + np.abs(rng.normal(0, 2, brain.shape)).astype(np.float32)
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 36), indexing='ij')
    corners = np.broadcast_to(((x**2 + y**2) > 1)[..., None], scan.shape)
    for value in (-2000, 32767):
        found, was = without_far_background(np.where(corners, np.float32(value), scan))
        assert was == value
        np.testing.assert_array_equal(found, np.where(corners, 0, scan))
    # Little further from the rest than that is from itself: no padding, but noise.
    few = np.broadcast_to(((x**2 + y**2) > 1.5)[..., None], scan.shape)
    assert far_background(np.where(few, np.float32(-1), scan)) is None
    assert far_background(np.where(few, np.float32(-100), scan)) == -100


def test_negative_scans_keep_their_lowest_value(brain):
    scan = np.where(brain == 0, -1024, brain - 60).astype(np.float32)
    found, _ = without_far_background(scan)
    assert found.min() == scan[scan > -1024].min()


def test_the_filled_box_has_a_margin(brain):
    assert filled_box(brain, 3) == (slice(7, 33), slice(6, 30), slice(5, 27))
    assert filled_box(brain, 100) == tuple(slice(0, n) for n in brain.shape)
    assert filled_box(np.zeros((4, 4, 4)), 1) == (slice(0, 4),) * 3


@pytest.mark.parametrize('spacing', [(1, 1, 1), (0.8, 1.3, 3)], ids=str)
@pytest.mark.parametrize('value', [0, -1024])
def test_empty_borders_are_not_resampled(brain, spacing, value, monkeypatch):
    padded = np.pad(np.where(brain == 0, value, brain), 40, constant_values=value)
    affine = np.diag([*spacing, 1])
    sizes = []
    plain = preprocess.resample

    def resample(volume, matrices):
        sizes.append(volume.size)
        return plain(volume, matrices)

    for module in (resampling, preprocess):
        monkeypatch.setattr(module, 'resample', resample)
    fast = prepare(padded, affine, 1.0)
    monkeypatch.setattr(background, 'EMPTY_SHARE', 0)
    whole = prepare(padded, affine, 1.0)
    np.testing.assert_allclose(fast.image, whole.image, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(fast.grid.affine, whole.grid.affine)
    assert sizes[0] < 0.1 * sizes[1]


def test_empty_borders_are_not_seen_by_the_network(brain):
    shapes = []

    class Seen(LabelStub):
        def forward(self, x):
            shapes.append(tuple(x.shape[2:]))
            return super().forward(x)

    network: Segmenter = segmenter(Seen(), 1.0)
    plain = network.segment(brain, np.eye(4)).labels
    shapes.clear()
    padded = np.pad(brain, 40)
    found = network.segment(padded, np.eye(4)).labels
    assert max(np.prod(shape) for shape in shapes) < 0.3 * padded.size
    assert found.shape == padded.shape
    # Scaled between percentiles of what is seen, so that a few voxels differ.
    inner = found[40:-40, 40:-40, 40:-40]
    assert ((inner > 0) == (plain > 0)).mean() > 0.99
    assert (inner > 0).sum() == (found > 0).sum()
