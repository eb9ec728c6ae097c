"""The reference implementation's steps against the libraries that it uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grids import oriented_affine
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from synthseg_bids.inference import reference
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.reference import (
    blur,
    reference_matrix,
    reference_segmenter,
    resample_as_reference,
    segment_as_reference,
)
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig, UNet3D

LABELS = tuple(label.index for label in segmentation_labels())


def resample_with_scipy(data: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Resample as the reference does, with the calls that it makes."""
    sigmas = [0.25 / factor if factor <= 1 else 0 for factor in factors]
    blurred = gaussian_filter(data.astype(float), sigmas)
    points = []
    for n, factor in zip(data.shape, factors, strict=True):
        start, size = -(factor - 1) / (2 * factor), int(np.ceil(n * factor))
        points.append(np.clip(start + np.arange(size) / factor, 0, n - 1))
    interpolator = RegularGridInterpolator([np.arange(n) for n in data.shape], blurred)
    return interpolator(np.stack(np.meshgrid(*points, indexing='ij'), -1))


@pytest.mark.parametrize('spacing', [(2, 0.7, 1), (0.5, 3.3, 1.2), (0.94, 1, 1), (0.3, 0.4, 5)])
def test_resampling(spacing, rng):
    data = rng.random((9, 11, 13), dtype=np.float32)
    affine = oriented_affine('LPS', spacing, 15)
    found, new_affine = resample_as_reference(data, affine)
    np.testing.assert_allclose(found, resample_with_scipy(data, np.array(spacing)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(new_affine[:3, :3], axis=0), 1)
    # The outer corner of the first voxel stays where it is.
    corner = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(new_affine @ corner, affine @ corner)


def test_two_millimetres_move_the_origin_by_half_of_one(rng):
    _, affine = resample_as_reference(
        rng.random((4, 4, 4), dtype=np.float32), np.diag([2, 2, 2, 1])
    )
    np.testing.assert_allclose(affine[:3, 3], -0.5)


def test_nearly_one_millimetre_is_left_alone(rng):
    data, affine = rng.random((4, 5, 6), dtype=np.float32), np.diag([0.96, 1.04, 1, 1])
    found, same = resample_as_reference(data, affine)
    np.testing.assert_array_equal(found, data)
    np.testing.assert_array_equal(same, affine)


def test_weights_sum_to_one():
    for n, factor in ((5, 0.5), (1, 0.9), (2, 0.2), (7, 2.5)):
        np.testing.assert_allclose(reference_matrix(n, factor).sum(1), 1, atol=1e-6)


def test_blur_has_the_reference_kernel():
    posteriors = torch.zeros(2, 5, 5, 5)
    posteriors[1, 2, 2, 2] = 1
    found = blur(posteriors)
    for position, weight in (
        ((2, 2, 2), 0.48742), ((1, 2, 2), 0.06596), ((1, 3, 2), 0.00893), ((3, 3, 1), 0.00121),
        ((0, 2, 2), 0),
    ):  # fmt: skip
        assert found[1][position] == pytest.approx(weight, abs=1e-5)
    assert not found[0].any()


class Known(Engine):
    """Give every scan the same posteriors: a mixture of labels in boxes."""

    def __init__(self, boxes: dict[int, tuple[slice, slice, slice]]) -> None:
        self.config = NetworkConfig(levels=3)
        self.device, self.dtype = torch.device('cpu'), torch.float32
        self.boxes = boxes

    def features(self, x):
        self.seen = x
        p = torch.full((1, 33, *x.shape[2:]), 1e-9)
        for label, box in self.boxes.items():
            p[0, LABELS.index(label)][box] = 0.9
        p[:, 0] = 1 - p[:, 1:].sum(1)
        return p.log()

    def logits(self, features, box, mirror=None, position=None, channels=None):
        if mirror is not None:
            features = features.flip(2)[:, mirror]
        return features[(slice(None), slice(None), *box)].clone()


def box(*starts: int, size: int = 10) -> tuple[slice, slice, slice]:
    x, y, z = (slice(start, start + size) for start in starts)
    return x, y, z


@pytest.fixture
def small(monkeypatch):
    """Spare the tests the padding to 128 voxels."""
    monkeypatch.setattr(reference, 'SMALLEST', 32)


def test_padding_is_what_the_reference_pads(rng):
    image = rng.random((130, 7, 160), dtype=np.float32)
    padded, inside = reference._pad(image)
    assert padded.shape == (160, 128, 160)
    np.testing.assert_array_equal(padded[None][inside][0], image)
    assert inside[1:] == (slice(15, 145), slice(60, 67), slice(0, 160))


def test_keeps_the_largest_component_of_each_structure(small):
    engine = Known({17: box(20, 20, 20), 2: box(30, 20, 20), 53: box(40, 20, 20, size=4)})
    stray = box(34, 35, 20, size=3)  # touches nothing
    engine.boxes[10] = stray
    card = ModelCard('known', engine.config, 1.0)
    segmenter = Segmenter.from_engine(engine, card)
    data = np.random.default_rng(0).random((64, 64, 64), dtype=np.float32)
    found = segment_as_reference(segmenter, data, np.diag([-1.0, 1, 1, 1]), flip=False)
    # Stored from right to left, so that the network's RAS boxes come back mirrored.
    labels = found.labels[::-1]
    assert (labels[box(20, 20, 20)] == 17).all()
    assert (labels[box(30, 20, 20)] == 2).all()
    assert (labels[box(40, 20, 20, size=4)] == 53).all()
    assert (labels[stray] == 0).all()
    assert set(np.unique(labels)) == {0, 2, 17, 53}
    np.testing.assert_allclose(found.posteriors.sum(0), 1, atol=1e-5)
    assert found.volumes_mm3[1:].sum() == pytest.approx(2 * 900 + 64 * 0.9, rel=0.1)


def test_flip_averages_and_ct_is_clipped(small):
    engine = Known({17: box(20, 20, 20), 2: box(30, 20, 20)})
    segmenter = Segmenter.from_engine(engine, ModelCard('known', engine.config, 1.0))
    data = np.linspace(-1000, 3000, 50**3, dtype=np.float32).reshape(50, 50, 50)
    found = segment_as_reference(segmenter, data, np.eye(4), ct=True)
    # The same answer for the mirrored scan halves the probability and mirrors the label.
    left, right = found.posteriors[LABELS.index(17)], found.posteriors[LABELS.index(53)]
    np.testing.assert_allclose(left, right[::-1], atol=1e-6)
    assert 0.4 < left.max() < 0.5
    inside = engine.seen[0, 0, 7:57, 7:57, 7:57]
    # Percentiles of what is left between 0 and 80 Hounsfield units: nearly all is 0 or 80.
    assert 0.01 < ((inside > 0) & (inside < 1)).float().mean() < 0.03


def test_computes_as_the_reference_does(tiny_model):
    segmenter = reference_segmenter(tiny_model, 'cpu')
    assert segmenter.engine.dtype == torch.float32
    assert segmenter.mirror is not None


def test_needs_a_network_for_one_millimetre():
    config = NetworkConfig(features=2, levels=2)
    engine = Engine(UNet3D(config), torch.device('cpu'))
    segmenter = Segmenter.from_engine(engine, ModelCard('coarse', config, 2.0))
    with pytest.raises(ValueError, match='coarse: works at 2 mm'):
        segment_as_reference(segmenter, np.zeros((4, 4, 4)), np.eye(4))
