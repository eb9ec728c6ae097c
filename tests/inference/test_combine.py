"""Scans of one session are segmented together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from ellipsoids import head, motion, seen
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from synthseg_bids.errors import InputImageError
from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.combine import Combination, Contrast, combine
from synthseg_bids.inference.rigid_resample import inside, sample, sample_image
from synthseg_bids.inference.soft_segmentation import SoftSegmentation
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig

MOTIONS = (np.eye(4), motion((8, -6, 5), (6, -4, 3)), motion((-5, 4, 0), (-2, 0, 5)))


def unsure(segmentation: SoftSegmentation, axis: int) -> SoftSegmentation:
    """Return posteriors with errors that are other ones in each scan."""
    rng = np.random.default_rng(axis)
    soft = segmentation.posteriors.numpy() / 255
    soft += 0.02 * (1 - soft[0])
    noise = gaussian_filter(rng.normal(size=soft.shape), (0, 1, 1, 1))
    soft[1:] *= np.exp(1.2 * noise[1:] / noise.std())
    posteriors = torch.from_numpy((255 * soft / soft.sum(0)).round().astype(np.uint8))
    steps = np.where(np.arange(3) == axis, 6.0, 2.0)
    return replace(segmentation, posteriors=posteriors, steps_mm=steps)


def card(labels: tuple[int, ...], weight: float = 0.0) -> ModelCard:
    config = NetworkConfig(levels=3, out_channels=len(labels))
    return ModelCard('stub', config, 1.0, labels=labels, intensity_weight=weight)


@pytest.fixture(scope='module', autouse=True)
def coarse() -> Iterator[None]:
    """Combine on a grid as coarse as the head is drawn, and be content with less overlap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('synthseg_bids.inference.combine.COMMON_MM', 2.0)
        patch.setattr('synthseg_bids.inference.combine.LEAST_OVERLAP', 0.65)
        yield


@pytest.fixture(scope='module')
def truth() -> list[SoftSegmentation]:
    return [seen(move) for move in MOTIONS]


@pytest.fixture(scope='module')
def session(truth) -> list[Contrast]:
    """Three scans with thick slices in other planes, and with other errors."""
    rng = np.random.default_rng(0)
    scans = []
    for axis, one in enumerate(truth):
        means = rng.permutation(len(one.labels)) / len(one.labels)
        image = np.tensordot(means, one.posteriors.numpy() / 255, 1)
        image = gaussian_filter1d(image, 1.5, axis=axis) + rng.normal(0, 0.02, image.shape)
        scans.append(Contrast(image, one.grid.affine, unsure(one, axis)))
    return scans


@pytest.fixture(scope='module')
def combined(session) -> Combination:
    return combine(session, card(session[0].prior.labels))


def right(channels: torch.Tensor, true: SoftSegmentation) -> float:
    """Return the share of the true head that has its label."""
    labels = true.posteriors.float().argmax(0)
    return float((channels.float().argmax(0) == labels)[labels > 0].float().mean())


def test_together_they_know_more(truth, session, combined):
    for number, (scan, true) in enumerate(zip(session, truth, strict=True)):
        box, posteriors = combined.on_grid(number, true.grid)
        torch.testing.assert_close(posteriors.sum(0), torch.ones(posteriors.shape[1:]))
        whole = torch.zeros_like(true.posteriors, dtype=torch.float32)
        whole[0] = 1
        whole[(slice(None), *box)] = posteriors
        wrong = 1 - right(whole, true), 1 - right(scan.prior.posteriors, true)
        assert wrong[0] < 0.8 * wrong[1]


def test_posteriors_halfway_sum_to_one(combined):
    total = combined.posteriors.sum(0)
    torch.testing.assert_close(total, torch.ones(combined.grid.shape))
    assert combined.used == (0, 1, 2)
    labels = combined.on_common_grid().labels
    assert labels.shape == combined.grid.shape
    assert {*np.unique(labels)} == {*combined.labels}


def test_labels_on_the_grid_of_a_scan(truth, combined):
    thick = Grid((48, 48, 12), truth[0].grid.affine @ np.diag([1, 1, 4, 1.0]))
    found = combined.on_scan(0, thick)
    labels, volumes = found.labels, found.volumes
    assert found.parcels is None
    assert labels.shape == thick.shape
    # Background fills up what is in the field of view.
    assert volumes.sum() == pytest.approx(labels.size * 32.0, rel=1e-4)
    brain_mm3 = float((truth[0].posteriors.float().argmax(0) > 0).sum()) * 8
    assert (labels > 0).sum() * 32 == pytest.approx(brain_mm3, rel=0.15)


def test_intensities_are_used(session, combined):
    refined = combine(session, card(session[0].prior.labels, 0.3))
    assert (refined.posteriors - combined.posteriors).abs().max() > 0.1


def test_a_scan_of_another_head_is_left_out(session):
    labels, affine = head(0.6)
    other = SoftSegmentation.from_labels(labels, affine)
    stranger = Contrast(labels.astype(float), affine, other)
    found = combine([*session[:2], stranger], card(other.labels))
    assert found.used == (0, 1)
    assert 'look whether it shows this head' in found.refused[2]
    with pytest.raises(InputImageError, match='segment them alone'):
        combine([session[0], stranger], card(other.labels))


def test_volumes_are_interpolated_on_turned_grids():
    volume = torch.zeros(8, 9, 10)
    volume[3:5, 4:6, 5:8] = 1
    turn = np.array([[0.0, 1, 0, 0.5], [-1, 0, 0, 8], [0, 0, 1, 0], [0, 0, 0, 1]])
    box, part = sample(volume, turn, (9, 8, 10))
    whole = torch.zeros(9, 8, 10)
    whole[box] = part
    image = sample_image(volume, turn, (9, 8, 10))
    torch.testing.assert_close(image.nan_to_num(0), whole)
    assert float(whole.sum()) == pytest.approx(float(volume.sum()))
    assert torch.equal(inside(turn, (9, 8, 10), volume.shape), ~image.isnan())
    assert sample(torch.zeros(3, 3, 3), turn, (4, 4, 4))[1].numel() == 0


def test_grids_need_not_be_whole(combined, truth):
    far = Grid((4, 4, 4), truth[0].grid.affine @ np.diag([1, 1, 1, 1.0]))
    far.affine[:3, 3] += 500
    box, posteriors = combined.on_grid(0, far)
    assert posteriors.shape[1:] == (0, 0, 0)
    assert box == (slice(0, 0),) * 3
