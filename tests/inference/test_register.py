"""Scans of one participant are registered by their segmentations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ellipsoids import head, motion, seen
from scipy.spatial.transform import Rotation

from synthseg_bids.inference.register import register
from synthseg_bids.inference.soft_segmentation import SoftSegmentation
from synthseg_bids.measure.agreement import AlignmentError


def errors(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return the errors of a motion in degrees, and in mm at the centre of the head."""
    apart = found @ np.linalg.inv(true)
    centre = true @ [0.0, 2.0, 8.0, 1.0]
    degrees = np.degrees(Rotation.from_matrix(apart[:3, :3]).magnitude())
    return float(degrees), float(np.linalg.norm(apart @ centre - centre))


@pytest.fixture(scope='module')
def scans() -> tuple[list[SoftSegmentation], list[np.ndarray]]:
    """Three scans of one head, and how it had moved."""
    motions = [np.eye(4), motion((12, -8, 10), (9, -6, 4)), motion((-3, 5, 0), (-2, 0, 7))]
    return [seen(m) for m in motions], motions


def test_motions_are_found(scans):
    segmentations, motions = scans
    found = register(segmentations)
    for other in (1, 2):
        degrees, mm = errors(found.between(0, other), motions[other])
        assert degrees < 0.25
        assert mm < 0.1
    assert min(found.overlaps) > 0.95
    assert max(found.centroid_mm) < 0.3


def test_no_scan_is_special(scans):
    segmentations, _ = scans
    one, other, third = segmentations
    forth, back = register([one, other]), register([other, one])
    np.testing.assert_allclose(forth.between(0, 1), np.linalg.inv(back.between(0, 1)), atol=1e-6)
    np.testing.assert_allclose(forth.to_scans[0], back.to_scans[1], atol=1e-6)
    all_three, turned = register([one, other, third]), register([third, one, other])
    np.testing.assert_allclose(all_three.to_scans[1], turned.to_scans[2], atol=1e-4)


def test_halfway_lies_between(scans):
    segmentations, motions = scans
    first, second = register(segmentations[:2]).to_scans
    turned = Rotation.from_matrix(motions[1][:3, :3]).magnitude()
    for move in (first, second):
        assert Rotation.from_matrix(move[:3, :3]).magnitude() == pytest.approx(turned / 2, rel=0.1)


def test_another_head_is_told_by_its_overlap():
    labels, affine = head()
    smaller, _ = head(0.8)
    found = register([SoftSegmentation.from_labels(part, affine) for part in (labels, smaller)])
    assert max(found.overlaps) < 0.85


def test_too_few_structures_are_no_position():
    labels, affine = head()
    little = np.where(np.isin(labels, (2, 3)), labels, 0)
    pair = [SoftSegmentation.from_labels(part, affine) for part in (labels, little)]
    with pytest.raises(AlignmentError, match='2 structures in common'):
        register(pair)


def test_files_hold_what_was_saved(scans, tmp_path):
    saved = scans[0][1]
    saved.save(tmp_path / 'a.npz')
    again = SoftSegmentation.load(tmp_path / 'a.npz')
    assert torch.equal(again.posteriors, saved.posteriors)
    assert (again.labels, again.box) == (saved.labels, saved.box)
    assert again.grid.is_close(saved.grid)
