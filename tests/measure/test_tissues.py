"""Tissues and masks of label maps whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.tissues import (
    FIVE_TISSUES,
    PARTS,
    brain_mask,
    channels_of_parts,
    five_tissues,
    intracranial_mask,
    three_probabilities,
    three_tissues,
)

STRUCTURES = [label.index for label in segmentation_labels(lesions=True) if label.index]
ISOTROPIC = np.ones(3)


def ball(radius: float, centre: float = 20, size: int = 41) -> np.ndarray:
    grid = np.indices((size,) * 3) - centre
    return np.sqrt((grid**2).sum(0)) <= radius


@pytest.fixture
def head() -> np.ndarray:
    """White matter in a shell of fluid, 41 voxels wide."""
    labels = np.zeros((41, 41, 41), np.int16)
    labels[ball(17)] = 24
    labels[ball(12)] = 2
    return labels


def test_every_structure_has_one_tissue():
    listed = [label for parts in PARTS for part in parts for label in part]
    assert sorted(listed) == sorted(STRUCTURES)
    channels = channels_of_parts((0, *STRUCTURES))
    assert sorted(c for part in channels for c in part) == list(range(1, len(STRUCTURES) + 1))
    assert sorted(FIVE_TISSUES.values()) == list(range(5))


@pytest.mark.parametrize(
    ('label', 'three', 'five'),
    [
        (42, 1, 'cortical grey matter'),
        (17, 1, 'cortical grey matter'),
        (12, 1, 'subcortical grey matter'),
        (16, 2, 'white matter'),
        (60, 2, 'white matter'),
        (77, 2, 'pathological tissue'),
        (43, 3, 'cerebrospinal fluid'),
        (24, 3, 'cerebrospinal fluid'),
    ],
)
def test_tissue_of_a_structure(label, three, five):
    """As 5ttgen freesurfer and BIDS number them."""
    labels = np.full((1, 1, 1), label)
    assert three_tissues(labels).item() == three
    parts = np.zeros((5, 1, 1, 1), np.uint8)
    (channel,) = (i for i, part in enumerate(channels_of_parts((0, label))) if part)
    parts[channel] = 200
    found = five_tissues(parts, labels)[:, 0, 0, 0]
    assert dict(zip(FIVE_TISSUES, found, strict=True))[five] == 1
    assert found.sum() == 1
    assert three_probabilities(parts)[:, 0, 0, 0].tolist() == [
        200 * (i == three) for i in (1, 2, 3)
    ]


def test_five_tissues_sum_to_1_in_the_head_and_are_0_elsewhere(rng):
    parts = rng.integers(0, 52, (5, 9, 8, 7), dtype=np.uint8)
    labels = np.zeros((9, 8, 7), np.int16)
    labels[2:6, 1:7, 3:5] = 41
    found = five_tissues(parts, labels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), labels > 0, atol=1e-6)
    expected = parts[:, 3, 3, 3] / parts[:, 3, 3, 3].sum()
    np.testing.assert_allclose(found[:, 3, 3, 3], expected[list(FIVE_TISSUES.values())], rtol=1e-6)
    assert not five_tissues(parts, np.zeros_like(labels)).any()


def test_three_probabilities_are_sums_of_their_parts(rng):
    parts = rng.integers(0, 52, (5, 4, 5, 6), dtype=np.uint8)
    grey, white, fluid = three_probabilities(parts)
    np.testing.assert_array_equal(grey, parts[0] + parts[1])
    np.testing.assert_array_equal(white, parts[2] + parts[3])
    np.testing.assert_array_equal(fluid, parts[4])


def test_masks_of_a_ball(head):
    # Rounded by the cube that closes it, at most at its poles.
    assert (brain_mask(head, ISOTROPIC) >= ball(12)).all()
    assert brain_mask(head, ISOTROPIC).sum() < 1.15 * ball(12).sum()
    np.testing.assert_array_equal(intracranial_mask(head), ball(17))


@pytest.mark.parametrize(('width', 'closed'), [(2, True), (6, True), (8, False)])
def test_sulci_are_closed_and_wide_gaps_are_not(head, width, closed):
    head[20 - width // 2 : 20 + width // 2, :, 12:] = np.where(
        head[20 - width // 2 : 20 + width // 2, :, 12:], 24, 0
    )
    mask = brain_mask(head, ISOTROPIC)
    assert bool(mask[20, 20, 20]) is closed
    # With voxels twice as large the same gap is twice as wide.
    assert bool(brain_mask(head, 2 * ISOTROPIC)[20, 20, 20]) is (closed and width < 6)


def test_holes_are_filled_and_masks_are_nested(head):
    head[17:24, 17:24, 17:24] = 0  # a cavity, wider than what is closed
    head[ball(3)] = 24
    for mask in (brain_mask(head, ISOTROPIC), intracranial_mask(head)):
        assert mask.dtype == np.uint8
        assert mask[20, 20, 20] == mask[17, 17, 17] == 1
    head[:, :, 25:] = 0  # where the field of view ends
    assert (brain_mask(head, ISOTROPIC) <= intracranial_mask(head)).all()


def test_a_brain_at_the_edge_of_the_image_keeps_its_edge():
    labels = np.full((8, 8, 8), 2)
    assert brain_mask(labels, ISOTROPIC).all()
    assert intracranial_mask(labels).all()


def test_nothing_has_empty_masks():
    nothing = np.zeros((5, 6, 7), np.int16)
    assert not brain_mask(nothing, ISOTROPIC).any()
    assert not intracranial_mask(nothing).any()
    assert not brain_mask(np.full_like(nothing, 24), ISOTROPIC).any()
