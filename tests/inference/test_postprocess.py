"""Labels and volumes from posteriors: connected components, crops, grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from posteriors import boxed_posteriors, random_posteriors

from synthseg_bids.inference import postprocess
from synthseg_bids.inference.localise import crop_box, find_brain
from synthseg_bids.inference.postprocess import (
    NEIGHBOUR_WEIGHT,
    NOWHERE,
    clean,
    fill,
    join_boxes,
    most_likely,
    smooth,
    soft_volumes,
    support_box,
    supports,
)
from synthseg_bids.inference.resample_posteriors import resample_labels
from synthseg_bids.labels import segmentation_labels

LABELS = tuple(label.index for label in segmentation_labels())
GROUPS = tuple(label.topology_group for label in segmentation_labels())
HIPPOCAMPI = (LABELS.index(17), LABELS.index(53))


@pytest.mark.parametrize('keep_posteriors', [False, True])
@pytest.mark.parametrize('steps', [(0.6, 0.7, 3.0), (1, 1, 1), (2.2, 0.4, 0.9)])
def test_lean_argmax_is_the_argmax(steps, keep_posteriors):
    """Resampling each channel only where it can win gives the same labels as all of them."""
    arguments, everywhere = boxed_posteriors(steps)
    labels, kept = resample_labels(*arguments, LABELS, keep_posteriors)
    expected = np.array(LABELS)[everywhere.argmax(0).numpy()]
    top = everywhere.topk(2, dim=0).values
    clear = (top[0] - top[1]).numpy() > 1e-5
    assert clear.mean() > 0.98
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(labels[clear], expected[clear])
    if kept is not None:
        np.testing.assert_allclose(kept / 255, everywhere, atol=0.51 / 255)


def test_crops_hold_the_brain_and_a_margin():
    grid = ((100, 100, 90), (64.0, 64.0, 64.0), 2.0, 16)
    brain = (slice(3, 10), slice(20, 80), slice(60, 88))
    assert crop_box(brain, *grid) == (slice(0, 32), slice(18, 82), slice(58, 90))
    for found, part in zip(brain, crop_box(brain, *grid), strict=True):
        assert part.start <= max(found.start - 2, 0)
        assert part.stop >= min(found.stop + 2, 90)


def test_clean_removes_detached_components():
    posteriors = torch.zeros((33, 16, 16, 16))
    left, right = HIPPOCAMPI
    posteriors[left, 1:9, 2:14, 2:14] = 1
    posteriors[right, 9:15, 2:14, 2:14] = 1
    # An island of right in left, and one of both outside the brain.
    posteriors[left, 3, 5, 5] = 0.3
    posteriors[right, 3, 5, 5] = 0.7
    posteriors[right, 15, 15, 15] = 1
    posteriors[0] = 1 - posteriors[1:].sum(0)
    cleaned, box = clean(posteriors.clone(), GROUPS)
    assert box is not None
    whole = torch.zeros_like(posteriors)
    whole[0] = 1
    whole[(slice(None), *box)] = cleaned
    torch.testing.assert_close(whole.sum(0), torch.ones(16, 16, 16))
    assert whole[left, 3, 5, 5] == 1
    assert whole[0, 15, 15, 15] == 1
    changed = (whole - posteriors).abs().amax(0) > 1e-6
    assert changed.nonzero().tolist() == [[3, 5, 5], [15, 15, 15]]


def test_an_island_is_what_surrounds_it():
    posteriors = torch.zeros((33, 16, 16, 16))
    left, right = HIPPOCAMPI
    posteriors[left, 1:10] = 1
    posteriors[right, 10:15] = 1
    # Five voxels wide: its middle has no neighbour that is not of the island itself. Rounding has
    # left what the network never meant.
    posteriors[:, 3:8, 4:9, 4:9] = 0
    posteriors[right, 3:8, 4:9, 4:9] = 1 - 1e-5
    posteriors[0, 3:8, 4:9, 4:9] = 1e-5
    posteriors[0] += 1 - posteriors.sum(0)
    cleaned, box = clean(posteriors.clone(), GROUPS)
    assert box == (slice(0, 16),) * 3
    expected = torch.zeros_like(cleaned)
    expected[left, 1:10] = 1
    expected[right, 10:15] = 1
    expected[0] = 1 - expected.sum(0)
    torch.testing.assert_close(cleaned, expected)


def test_many_holes_are_filled_like_one(monkeypatch):
    posteriors = random_posteriors((12, 11, 10))
    holes = posteriors[3] > posteriors[3].median()
    posteriors *= ~holes
    whole, pieces = posteriors.clone(), posteriors.clone()
    fill(whole, holes.clone())
    monkeypatch.setattr(postprocess, 'FILL_VOXELS', 7)
    fill(pieces, holes.clone())
    assert torch.equal(whole, pieces)
    torch.testing.assert_close(whole.sum(0), torch.ones(12, 11, 10))
    assert torch.equal(whole * ~holes, posteriors)


def test_a_hole_without_a_border_is_background():
    posteriors = torch.zeros(3, 4, 4, 4)
    fill(posteriors, torch.ones(4, 4, 4, dtype=torch.bool))
    assert posteriors[0].eq(1).all()
    assert not posteriors[1:].any()


def test_clean_keeps_the_soft_side_of_borders():
    profile = torch.tensor([0, 0.1, 0.6, 1, 1, 1, 0.7, 0.2, 0, 0])
    posteriors = torch.zeros((33, 10, 10, 10))
    posteriors[5] = profile[:, None, None]
    posteriors[0] = 1 - posteriors[5]
    cleaned, box = clean(posteriors.clone(), GROUPS)
    assert box == (slice(1, 8), slice(0, 10), slice(0, 10))
    torch.testing.assert_close(cleaned[5, :, 3, 3], profile[1:8])


def test_clean_leaves_fluid_in_pieces():
    posteriors = torch.zeros((33, 12, 12, 12))
    fluid, brainstem = LABELS.index(24), LABELS.index(16)
    posteriors[fluid] = 1
    posteriors[brainstem, 4:8] = 1
    posteriors[fluid, 4:8] = 0
    cleaned, box = clean(posteriors.clone(), GROUPS)
    assert box == (slice(0, 12),) * 3
    torch.testing.assert_close(cleaned, posteriors)


def test_smoothing_averages_neighbours():
    posteriors = torch.rand(3, 4, 1, 5)
    posteriors /= posteriors.sum(0)
    found = smooth(posteriors.clone())
    torch.testing.assert_close(found.sum(0), torch.ones(4, 1, 5))
    w = NEIGHBOUR_WEIGHT
    weights = torch.tensor([w, 1 - 2 * w, w])
    expected = torch.zeros(3)
    for i, across in enumerate(weights):
        for j, along in enumerate(weights):
            expected += across * along * posteriors[:, 1 + i, 0, 1 + j]
    torch.testing.assert_close(found[:, 2, 0, 2], expected)
    flat = torch.full((1, 3, 3, 3), 0.4)
    torch.testing.assert_close(smooth(flat.clone()), flat)


def test_find_brain_takes_the_largest_component():
    outside = torch.ones((12, 12, 12))
    outside[1:3, 1:3, 1:3] = 0.4
    outside[5:9, 4:10, 6:8] = 0.4
    assert find_brain(outside) == (slice(5, 9), slice(4, 10), slice(6, 8))
    assert find_brain(torch.full((12, 12, 12), 0.9)) is None


def test_find_brain_leaves_out_stray_voxels():
    outside = torch.ones((24, 24, 24))
    outside[4:20, 4:20, 8:20] = 0
    outside[12, 12, 20:23] = 0
    assert find_brain(outside) == (slice(4, 20), slice(4, 20), slice(8, 20))


def test_soft_volumes_count_what_lies_outside():
    posteriors = torch.zeros((3, 2, 2, 2))
    posteriors[1] = 0.25
    posteriors[0] = 0.75
    np.testing.assert_allclose(soft_volumes(posteriors, 100, 2.0), [196, 4, 0])


def test_the_most_likely_channel_is_that_of_the_largest_posterior():
    posteriors = random_posteriors((12, 11, 10))
    best, winner = most_likely(posteriors)
    expected = posteriors.max(0)
    assert torch.equal(best, expected.values)
    assert torch.equal(winner, expected.indices)
    assert len(winner.unique()) > 10


def test_support_boxes():
    volume = torch.zeros(5, 6, 7)
    assert support_box(volume, floor=0.0) is None
    assert support_box(volume[:0], floor=0.0) is None
    volume[1, 2, 3] = volume[3, 4, 1] = 0.5
    volume[0, 0, 6] = 0.1
    box = support_box(volume, floor=0.2)
    assert box == (slice(1, 4), slice(2, 5), slice(1, 4))
    assert support_box(volume.permute(2, 0, 1), floor=0.2) == (box[2], box[0], box[1])
    whole = (slice(0, 4), slice(0, 5), slice(1, 7))
    assert join_boxes([box, None, support_box(volume, floor=0.0)]) == whole
    assert join_boxes([None]) == (slice(0, 0),) * 3


def test_boxes_of_channels_change_nothing(rng):
    posteriors = torch.zeros(4, 20, 24, 20)
    posteriors[1, 4:9, 5:9, 3:8] = torch.from_numpy(rng.random((5, 4, 5), dtype=np.float32))
    posteriors[2, 8:18, 7:20, 2:18] = 0.3
    posteriors[0] = 1 - posteriors.sum(0).clamp_(max=1)
    posteriors /= posteriors.sum(0)
    boxes = supports(posteriors)
    assert boxes[1] == (slice(3, 10), slice(4, 10), slice(2, 9))
    assert boxes[3] == NOWHERE
    assert torch.equal(smooth(posteriors.clone(), boxes), smooth(posteriors.clone()))
    for found, expected in zip(
        most_likely(posteriors, boxes), most_likely(posteriors), strict=True
    ):
        assert torch.equal(found, expected)
    shapes = (20, 24, 20), (30, 20, 31)
    place = tuple(slice(0, n) for n in shapes[0])
    arguments = posteriors, place, *shapes, np.array([2 / 3, 1.2, 0.6]), (0, 3, 4, 7), True
    for found, expected in zip(
        resample_labels(*arguments, boxes), resample_labels(*arguments), strict=True
    ):
        assert np.array_equal(found, expected)


def test_only_the_box_that_a_channel_fills_is_smoothed():
    posteriors = torch.zeros(2, 20, 20, 20)
    posteriors[1, 5:9, 6:12, 7:9] = torch.rand(4, 6, 2)
    posteriors[0] = 1 - posteriors[1]
    found = smooth(posteriors.clone())
    torch.testing.assert_close(found.sum(0), torch.ones(20, 20, 20))
    outside = torch.ones(20, 20, 20, dtype=torch.bool)
    outside[4:10, 5:13, 6:10] = False
    assert torch.equal(found[:, outside], posteriors[:, outside])


def test_one_of_two_components_of_a_group_is_kept():
    posteriors = torch.zeros((33, 16, 16, 16))
    left, right = HIPPOCAMPI
    posteriors[LABELS.index(16), 2:14, 2:14, 2:14] = 1
    for channel, part in ((left, slice(3, 7)), (right, slice(11, 13))):
        posteriors[:, part, 5:9, 5:9] = 0
        posteriors[channel, part, 5:9, 5:9] = 1
    posteriors[0] = 1 - posteriors[1:].sum(0)
    # Both are in groups of their own: neither is touched.
    cleaned, box = clean(posteriors.clone(), GROUPS)
    torch.testing.assert_close(cleaned, posteriors[(slice(None), *box)])
    joined = tuple(1 if channel in HIPPOCAMPI else 0 for channel in range(33))
    cleaned, _ = clean(posteriors.clone(), joined)
    assert not cleaned[right].any()
    assert cleaned[left].sum() == posteriors[left].sum()
    torch.testing.assert_close(cleaned.sum(0), torch.ones(cleaned.shape[1:]))
