"""Posteriors follow the borders that a scan shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from synthseg_bids.inference.original_spacing import (
    independence,
    interpolated_steps,
    own_steps,
)
from synthseg_bids.inference.refine import refine

#: Background, a structure with two sides, one without.
MIRROR = (0, 2, 1, 3)
FINE = np.ones(3)


@pytest.fixture
def head(rng) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Soft posteriors, a scan with a bias field, and the labels they are of."""
    shape = 48, 40, 40
    x, y, z = np.indices(shape)
    waves = 20 + 4 * np.sin(y / 2) * np.sin(z / 2)
    labels = np.where(np.abs(x - 23.5) < waves, np.where(x < 24, 1, 2), 0)
    labels[np.abs(x - 23.5) < waves - 8] = 3
    # The network has drawn the inner border as a plane.
    blurred = np.where(np.abs(x - 23.5) < 12, 3, labels)
    sure = np.eye(4, dtype=np.float32)[blurred]
    soft = 0.6 * sure + 0.4 * np.eye(4, dtype=np.float32)[np.where(labels, [[[3]]], 0)] * 0.5
    soft += 0.2 * np.eye(4, dtype=np.float32)[np.where(labels, np.where(x < 24, 1, 2), 0)]
    posteriors = torch.from_numpy(np.moveaxis(soft, -1, 0) / soft.sum(-1)).float().contiguous()
    bias = 1 + 0.3 * y / 40
    means = np.array([0.1, 0.5, 0.5, 0.9])
    scan = means[labels] * bias + rng.normal(0, 0.03, shape)
    return posteriors, scan.astype(np.float32), labels


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_borders_follow_the_intensities(head):
    posteriors, scan, labels = head
    before = posteriors.argmax(0).numpy()
    found = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE])
    torch.testing.assert_close(found.sum(0), torch.ones(scan.shape))
    after = found.argmax(0).numpy()
    for label in (1, 2, 3):
        drawn, followed = (dice(found == label, labels == label) for found in (before, after))
        assert followed > 0.97
        assert followed > drawn + 0.02


def test_what_is_background_stays_so(head):
    posteriors, scan, _ = head
    found = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE])
    torch.testing.assert_close(found[0], posteriors[0])


def test_refines_a_part_of_a_larger_volume_in_place(head):
    posteriors, scan, _ = head
    expected = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE])
    larger = torch.zeros(4, 50, 44, 43)
    part = larger[:, 1:49, 2:42, 3:43]
    part.copy_(posteriors)
    found = refine(part, [scan], 1.0, MIRROR, 0.5, [FINE])
    assert found.data_ptr() == part.data_ptr()
    torch.testing.assert_close(found, expected)


def test_unlikely_structures_keep_their_posterior(head):
    posteriors, scan, _ = head
    posteriors = posteriors.clone()
    least = posteriors[0] == 1
    assert least.any()
    posteriors[3, least] = 5e-4
    posteriors[0, least] -= 5e-4
    found = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE])
    torch.testing.assert_close(found.sum(0), posteriors.sum(0))
    assert torch.equal(found[3, least], posteriors[3, least])


def test_without_weight_or_contrast_nothing_changes(head):
    posteriors, scan, _ = head
    torch.testing.assert_close(
        refine(posteriors.clone(), [scan], 1.0, MIRROR, 0, [FINE]), posteriors
    )
    flat = np.ones_like(scan)
    torch.testing.assert_close(
        refine(posteriors.clone(), [flat], 1.0, MIRROR, 0.5, [FINE]), posteriors
    )


def test_two_scans_know_more_than_each_of_them(head, rng):
    posteriors, scan, labels = head
    noisy = [(scan + rng.normal(0, 0.2, scan.shape)).astype(np.float32) for _ in range(2)]
    brain = (labels > 0) & (posteriors[0].numpy() < 0.5)
    wrong = []
    for images in ([noisy[0]], [noisy[1]], noisy):
        found = refine(posteriors.clone(), images, 1.0, MIRROR, 0.5, [FINE] * len(images))
        wrong.append(float((found.argmax(0).numpy() != labels)[brain].mean()))
    assert wrong[2] < 0.98 * min(wrong[:2])


def test_what_a_scan_does_not_show_is_left_to_the_other(head, rng):
    posteriors, scan, labels = head
    half = scan.copy()
    half[:24] = np.nan
    alone = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE]).argmax(0).numpy()
    both = refine(posteriors.clone(), [scan, half], 1.0, MIRROR, 0.5, [FINE] * 2).argmax(0).numpy()
    # There the second scan has no say; elsewhere it says the same again.
    assert (both[:24] == alone[:24]).mean() > 0.998
    assert (both == labels).mean() > (alone == labels).mean() - 0.002


@pytest.mark.parametrize(('step', 'share'), [(1.0, 1.0), (3.0, 1.0), (16.0, 0.5)])
def test_coarse_voxels_that_others_show_anew_count_as_fine_ones_at_most(head, step, share):
    posteriors, scan, _ = head
    steps = np.array([step, 1, 1])
    weight = 0.5 * share / independence(steps)
    found = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [steps], shown_anew=2.0)
    torch.testing.assert_close(found, refine(posteriors, [scan], 1.0, MIRROR, weight, [steps]))


def test_the_order_of_scans_does_not_matter(head, rng):
    posteriors, scan, _ = head
    other = (1 - scan + rng.normal(0, 0.05, scan.shape)).astype(np.float32)
    coarse = np.array([3.0, 1, 1])
    one = refine(posteriors.clone(), [scan, other], 1.0, MIRROR, 0.5, [FINE, coarse])
    two = refine(posteriors.clone(), [other, scan], 1.0, MIRROR, 0.5, [coarse, FINE])
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_a_mirrored_scan_gives_the_mirrored_posteriors(head):
    posteriors, scan, _ = head
    found = refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE])
    mirrored = posteriors.flip(1)[list(MIRROR)].contiguous()
    again = refine(mirrored, [np.ascontiguousarray(scan[::-1])], 1.0, MIRROR, 0.5, [FINE])
    torch.testing.assert_close(again.flip(1)[list(MIRROR)], found, atol=1e-4, rtol=1e-3)


def test_small_grids_and_small_structures():
    posteriors = torch.rand(4, 2, 1, 3)
    posteriors /= posteriors.sum(0)
    scan = np.random.default_rng(0).random((2, 1, 3))
    torch.testing.assert_close(
        refine(posteriors.clone(), [scan], 1.0, MIRROR, 0.5, [FINE]), posteriors
    )


def test_what_is_unlike_everything_keeps_its_place(head):
    """A dark lesion in bright tissue: its other neighbour is nearer, but far as well."""
    posteriors, scan, labels = head
    lesion = np.zeros_like(labels, bool)
    lesion[20:25, 18:23, 18:23] = True
    assert (labels[lesion] == 3).all()
    even = scan / (1 + 0.3 * np.indices(labels.shape)[1] / 40)
    scan = np.where(lesion, 0.68, even).astype(np.float32)
    found = refine(posteriors.clone(), [scan], 1.0, MIRROR, 1, [FINE]).argmax(0).numpy()
    assert (found[lesion] == 3).mean() > 0.95


@pytest.fixture
def texture(rng) -> np.ndarray:
    """What has no structure at all, as whole numbers."""
    return rng.normal(1000, 200, (48, 40, 44)).round()


BRAIN = torch.ones(48, 40, 44, dtype=torch.bool)


def test_grey_borders_are_not_a_grey_structure(rng, monkeypatch):
    labels = np.ones((40, 40, 40), int)
    labels[20:] = 2
    labels[:, :, 28:] = 3
    scan = np.array([0, 0.2, 0.8, 0.5])[labels] + rng.normal(0, 0.02, labels.shape)
    scan = gaussian_filter(scan, 0.5).astype(np.float32)
    sure = np.moveaxis(np.eye(4, dtype=np.float32)[labels], -1, 0)
    # The network does not know what the border is.
    unsure = sure.copy()
    unsure[1:, 18:22] = np.reshape([0.3, 0.3, 0.4], (3, 1, 1, 1))
    unsure[..., 28:] = sure[..., 28:]

    def right() -> float:
        found = refine(torch.from_numpy(unsure).clone(), [scan], 1.0, (0, 1, 2, 3), 1, [FINE])
        return float((found.argmax(0).numpy() == labels)[18:22].mean())

    assert right() > 0.98
    monkeypatch.setattr('synthseg_bids.inference.observed_scan.BLUR', 0)
    assert right() < 0.9


def test_coarse_scans_count_less():
    assert independence(np.array([1.0, 0.5, 1.0])) == 1
    assert independence(np.array([1.0, 1.0, 4.0])) == pytest.approx(0.5)
    assert independence(np.array([2.0, 2.0, 4.0])) == pytest.approx(0.25)


def interpolated(scan: np.ndarray, axis: int, step: float) -> np.ndarray:
    """Sample a scan along an axis, and interpolate it back to where it was, in whole numbers."""
    size = scan.shape[axis]
    places = np.arange(0, size - 1 + step, step)
    samples = np.take(scan, np.minimum(places, size - 1).astype(int), axis)

    def back(line: np.ndarray) -> np.ndarray:
        return np.interp(np.arange(size), places, line)

    return np.apply_along_axis(back, axis, samples).round()


@pytest.mark.parametrize('step', [2, 2.7, 3, 4.3, 5, 8])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_scans_that_were_interpolated_are_known(texture, axis, step):
    found = interpolated_steps(torch.from_numpy(interpolated(texture, axis, step)), BRAIN)
    # Some pairs of samples are equal, or on a line with the next.
    assert step * 0.99 <= found[axis] < step * 1.25
    assert (np.delete(found, axis) == 1).all()
    # What the header knows is not counted twice.
    for header in (0.5, 1, 16):
        steps = np.full(3, 0.5)
        steps[axis] = header
        own = own_steps(steps, interpolated(texture, axis, step), BRAIN)
        assert own[axis] == max(found[axis], header)
        assert (np.delete(own, axis) == 1).all()


def test_scans_of_few_grey_values_were_not_interpolated(texture):
    few = torch.from_numpy(texture // 200)
    blocks = torch.from_numpy(np.indices(texture.shape)[2] // 9.0)
    for scan in (few, blocks, torch.ones(texture.shape)):
        assert interpolated_steps(scan, BRAIN).tolist() == [1, 1, 1]
    assert interpolated_steps(few, torch.zeros_like(BRAIN)).tolist() == [1, 1, 1]
