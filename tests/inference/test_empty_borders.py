"""Padding changes neither labels nor what a scan costs."""

from __future__ import annotations

import numpy as np
import pytest
from grids import oriented_affine
from stub_networks import LABELS, SideStub, StubEngine, ball

from synthseg_bids.inference import empty_borders
from synthseg_bids.inference.empty_borders import cut_empty_borders
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig

BEFORE, AFTER = (20, 31, 8), (33, 10, 40)


@pytest.fixture
def padded(monkeypatch):
    """A noisy scan, the same in a much larger volume, their affines, and where it lies there."""
    monkeypatch.setattr(empty_borders, 'LEAST_MM', 0.0)
    affine = oriented_affine('LPS', (1.1, 1.3, 0.9))
    scan, _ = ball((31, 28, 34), affine, (-6.0, 2.0, 1.0), 9)
    scan += np.random.default_rng(0).uniform(0.001, 0.01, scan.shape)
    whole = np.pad(scan, tuple(zip(BEFORE, AFTER, strict=True)))
    there = affine.copy()
    there[:3, 3] -= affine[:3, :3] @ BEFORE
    box = tuple(slice(b, b + n) for b, n in zip(BEFORE, scan.shape, strict=True))
    return scan, affine, whole, there, box


@pytest.fixture
def segmenter() -> Segmenter:
    config = NetworkConfig(levels=3)
    card = ModelCard('stub', config, 1.0, None)
    return Segmenter.from_engine(StubEngine(SideStub(), config), card, flip=False)


def test_a_padded_scan_has_the_same_labels(padded, segmenter):
    scan, affine, whole, there, box = padded
    wanted = {'posteriors': True, 'tissues': True}
    alone = segmenter.segment(scan, affine, **wanted)
    found = segmenter.segment(whole, there, **wanted)
    assert found.grid_shape == alone.grid_shape
    assert found.labels.shape == whole.shape
    assert np.isin([17, 53], alone.labels).any()
    np.testing.assert_array_equal(found.labels[box], alone.labels)
    assert np.count_nonzero(found.labels) == np.count_nonzero(alone.labels)
    np.testing.assert_array_equal(found.posteriors[(slice(None), *box)], alone.posteriors)
    assert (found.posteriors[0, :, :, :8] == 255).all()
    np.testing.assert_array_equal(found.tissues[(slice(None), *box)], alone.tissues)
    np.testing.assert_allclose(found.volumes_mm3[1:], alone.volumes_mm3[1:])
    added = (whole.size - scan.size) * 1.1 * 1.3 * 0.9
    assert found.volumes_mm3[0] == pytest.approx(alone.volumes_mm3[0] + added)
    assert len(found.volumes_mm3) == len(LABELS)


def test_what_is_cut_off_is_empty(padded):
    scan, affine, whole, there, box = padded
    inner, moved, borders = cut_empty_borders(whole, there)
    assert borders.box == box
    assert np.shares_memory(inner, whole)
    np.testing.assert_array_equal(inner, scan)
    np.testing.assert_allclose(moved, affine)
    same, unmoved, nothing = cut_empty_borders(scan, affine)
    assert same is scan
    assert unmoved is affine
    assert nothing.n_voxels == 0


@pytest.mark.parametrize(
    ('part', 'size', 'least', 'expected'),
    [
        (slice(10, 20), 100, 8, slice(10, 20)),
        (slice(10, 20), 100, 16, slice(7, 23)),
        (slice(1, 11), 100, 16, slice(0, 16)),
        (slice(88, 98), 100, 17, slice(83, 100)),
        (slice(4, 8), 12, 99, slice(0, 12)),
    ],
)
def test_small_content_is_widened(part, size, least, expected):
    assert empty_borders._widen(part, size, least) == expected
