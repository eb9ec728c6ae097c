"""Intensities correct what a registration by segmentations leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ellipsoids import motion, seen
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from synthseg_bids.inference.register import register
from synthseg_bids.inference.register_intensities import BINS, bias_field, mutual_information

#: Where the head lies in each scan, and by how much segmentations are wrong about it.
MOTIONS = (np.eye(4), motion((6, -4, 5), (4, -3, 2)))
ERRORS = (motion((0.8, 0, -0.8), (0.6, -0.5, 0)), motion((0, -0.9, 0.5), (-0.5, 0.4, 0.6)))


@pytest.fixture(scope='module')
def segmentations():
    return [seen(move @ error) for move, error in zip(MOTIONS, ERRORS, strict=True)]


@pytest.fixture(scope='module')
def images():
    """Two contrasts, with noise and in one of them a bias field."""
    rng = np.random.default_rng(1)
    found = []
    for number, move in enumerate(MOTIONS):
        true = seen(move)
        image = np.tensordot(rng.permutation(len(true.labels)), true.posteriors.numpy() / 255, 1)
        image += rng.normal(0, 0.2, image.shape)
        if number:
            image *= 1 + np.arange(48)[:, None, None] / 48
        found.append((image, true.grid.affine))
    return found


def error(found) -> float:
    """Return the error of a registration in degrees and mm, added."""
    apart = found.between(0, 1) @ np.linalg.inv(MOTIONS[1])
    centre = MOTIONS[1] @ [0.0, 2.0, 8.0, 1.0]
    degrees = math.degrees(Rotation.from_matrix(apart[:3, :3]).magnitude())
    return degrees + float(np.linalg.norm(apart @ centre - centre))


def test_intensities_correct_segmentations(segmentations, images, monkeypatch):
    # A small head of 2 mm has few samples.
    monkeypatch.setattr('synthseg_bids.inference.register_intensities.DEPENDENT', 20)
    alone, together = register(segmentations), register(segmentations, images)
    assert error(together) < 0.4 * error(alone)


def test_order_does_not_matter(segmentations, images):
    forth, back = register(segmentations, images), register(segmentations[::-1], images[::-1])
    np.testing.assert_allclose(forth.between(0, 1), back.between(1, 0), atol=1e-3)


def test_scans_without_contrast_stay(segmentations, images):
    rng = np.random.default_rng(2)
    empty = [(rng.normal(100, 1, image.shape), affine) for image, affine in images]
    alone, together = register(segmentations), register(segmentations, empty)
    np.testing.assert_allclose(together.between(0, 1), alone.between(0, 1), atol=0.25)


def test_bias_field_is_found():
    groups = torch.zeros(2, 48, 48, 24)
    groups[0, :, :24], groups[1, :, 24:] = 1, 1
    true = 1 + 0.3 * torch.linspace(-1, 1, 48)[:, None, None].expand(48, 48, 24)
    values = (groups * torch.tensor([2.0, 5.0]).view(2, 1, 1, 1)).sum(0) * true
    inside = (slice(16, -16), slice(None), slice(None))
    ratio = (bias_field(values, groups, 4.0) / true)[inside]
    assert float(ratio.std()) < 0.02
    assert float(true[inside].std()) > 0.05


def test_information_of_intensities():
    rng = np.random.default_rng(0)
    one = torch.from_numpy(gaussian_filter(rng.normal(size=20000), 1)).float()
    one = (one - one.min()) / (one.max() - one.min()) * (BINS - 1)
    other = one[torch.from_numpy(rng.permutation(20000))]
    weight = torch.ones(20000)
    same = float(mutual_information(one, BINS - 1 - one, weight))
    assert same > 0.5
    assert float(mutual_information(one, other, weight)) < 0.05
    assert same == pytest.approx(float(mutual_information(one, one, weight)), rel=1e-3)
