"""What has changed in a head between two scans is found by their intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ellipsoids import STRUCTURES, head, motion
from torch import Tensor

from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.deform_visits import (
    STEP,
    between_scans,
    displacements,
    spline_matrices,
)
from synthseg_bids.inference.deformation_prior import DeformationPrior, deformation_prior
from synthseg_bids.inference.longitudinal import (
    compare_visits,
    joint_posteriors,
    register_visits,
)
from synthseg_bids.inference.soft_segmentation import SoftSegmentation
from synthseg_bids.synth.deform import sample

VENTRICLES = (4, 43)
INTENSITIES = {3: 0.8, 42: 0.8, 2: 1.1, 41: 1.1, 4: 0.3, 43: 0.3, 8: 0.9, 47: 0.9, 16: 1.05}
GROWTH = 0.08


def shares(growth: float) -> dict[int, np.ndarray]:
    """Return the part of each voxel that is each structure, of a head with other ventricles."""
    where = 2 * np.stack(np.indices((48, 48, 48)), -1) - 48.0
    found: dict[int, np.ndarray] = {0: np.ones((48, 48, 48))}
    for centre, radii, label in STRUCTURES:
        size = np.array(radii) * ((1 + growth) ** (1 / 3) if label in VENTRICLES else 1)
        distance = np.sqrt((((where - np.array(centre)) / size) ** 2).sum(-1))
        part = 1 / (1 + np.exp((distance - 1) * size.mean()))
        found = {key: value * (1 - part) for key, value in found.items()} | {label: part}
    return found


def scan(growth: float, seed: int, noise: float = 0.02) -> np.ndarray:
    """Return the image of such a head with noise, a gain, an offset and a bias field."""
    source = np.random.default_rng(seed)
    image = sum(
        INTENSITIES.get(label, 1.0) * part for label, part in shares(growth).items() if label
    )
    slope = np.linspace(-0.1, 0.1, 48)[:, None, None] * source.choice((-1, 1))
    gain, offset = source.uniform(0.8, 1.3), source.uniform(0, 0.03)
    noisy = image + source.normal(0, noise, image.shape)
    found: np.ndarray = (gain * noisy * np.exp(slope) + offset).astype(np.float32)
    return found


def prior(growth: float) -> SoftSegmentation:
    labels, affine = head()
    values = (0, *sorted({label for *_, label in STRUCTURES}))
    parts = shares(growth)
    planes = np.stack([np.round(255 * parts[value]).astype(np.uint8) for value in values])
    box = tuple(slice(0, n) for n in labels.shape)
    return SoftSegmentation(torch.from_numpy(planes), values, Grid(labels.shape, affine), box)


def growth_of(priors, images) -> float:
    """Return by how much the ventricles of two visits that were segmented together differ."""
    registration = register_visits(priors, images=images)
    changes = compare_visits(priors, images, 'ab', ['T1w', 'T1w'], registration)
    assert changes.alike(0) == (0, 1)
    ventricles = [priors[0].labels.index(label) for label in VENTRICLES]
    before, after = (
        float(joint_posteriors(priors, 'ab', registration, changes, own)[ventricles].sum())
        for own in (0, 1)
    )
    return after / before - 1


def blobs(shift: float) -> Tensor:
    """Return a smooth image, displaced along x."""
    x, y, z = (torch.arange(24).float() - 11.5 for _ in range(3))
    return torch.exp(-((x[:, None, None] - shift) ** 2 + y[:, None] ** 2 + z**2) / 40)


@pytest.fixture(scope='module')
def around() -> tuple[Tensor, DeformationPrior]:
    """Where blobs are compared, and what is known of the structure that they show."""
    posteriors = torch.stack([1 - blobs(0), blobs(0)])
    return torch.ones(24, 24, 24), deformation_prior(
        posteriors, spline_matrices((24, 24, 24)), STEP
    )


def test_a_shift_is_found_and_shared_by_both_scans(around):
    found = displacements(torch.stack([blobs(0.4), blobs(-0.4)]), *around)
    centre = found[:, :, 8:16, 8:16, 8:16].mean((2, 3, 4))
    torch.testing.assert_close(centre[0], torch.tensor([0.4, 0, 0]), atol=0.06, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.zeros_like(found[0]), atol=1e-4, rtol=0)


def test_no_scan_is_special(around):
    images = torch.stack([blobs(0.3), blobs(-0.2), blobs(0.0)])
    forth, back = displacements(images, *around), displacements(images.flip(0), *around)
    torch.testing.assert_close(forth, back.flip(0), atol=0.02, rtol=0)


def test_the_way_back_is_the_inverse():
    field = torch.zeros(2, 3, 24, 24, 24)
    field[0, 0], field[1, 0] = blobs(0), -blobs(0)
    whole = tuple(slice(0, 24) for _ in range(3))
    forth = between_scans(field[0], field[1], np.eye(4), (24, 24, 24))
    back = between_scans(field[1], field[0], np.eye(4), (24, 24, 24))
    places = torch.stack(torch.meshgrid(*(torch.arange(24.0) for _ in whole), indexing='ij'))
    there = places + forth
    torch.testing.assert_close(there + sample(back, there), places, atol=0.05, rtol=0)


@pytest.fixture(scope='module')
def visits():
    """Two visits of one head whose ventricles have grown; the network sees the first twice."""
    priors = [prior(0), prior(0)]
    _, affine = head()
    return priors, [(scan(0, 1), affine), (scan(GROWTH, 2), affine)]


def test_growth_that_segmentations_miss_is_followed(visits):
    priors, images = visits
    growth = growth_of(priors, images)
    assert growth == pytest.approx(GROWTH, rel=0.3)


def test_nothing_changes_where_nothing_has_changed(visits):
    priors, images = visits
    again = [images[0], (scan(0, 3), images[0][1])]
    growth = growth_of(priors, again)
    assert abs(growth) < GROWTH / 8


@pytest.mark.parametrize(('names', 'contrasts'), [('ab', ['T1w', 'T2w']), ('aa', ['T1w', 'T1w'])])
def test_only_scans_of_one_contrast_at_several_visits_are_compared(visits, names, contrasts):
    priors, images = visits
    registration = register_visits(priors)
    changes = compare_visits(priors, images, names, contrasts, registration)
    assert not changes.groups
    assert not changes.fields


def test_scans_that_look_unlike_are_named_and_not_compared(visits, caplog):
    priors, images = visits
    inverted = [images[0], (2 - images[1][0], images[1][1])]
    changes = compare_visits(priors, inverted, 'ab', ['T1w', 'T1w'], register_visits(priors))
    assert not changes.groups
    assert 'images of the contrast T1w are not compared' in caplog.text


def test_the_head_may_move_between_visits(visits):
    priors, images = visits
    move = motion((3, -2, 4), (2, -3, 1))
    affine = images[1][1]
    moved = [images[0], (images[1][0], move @ affine)]
    other = SoftSegmentation(
        priors[1].posteriors, priors[1].labels, Grid((48, 48, 48), move @ affine), priors[1].box
    )
    both = [priors[0], other]
    growth = growth_of(both, moved)
    assert growth == pytest.approx(GROWTH, rel=0.35)
