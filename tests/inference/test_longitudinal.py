"""Visits are segmented together with their mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ellipsoids import head, motion, seen
from scipy.ndimage import gaussian_filter

from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.combine import Contrast
from synthseg_bids.inference.longitudinal import (
    Changes,
    joint_posteriors,
    refine_compared,
    register_visits,
)
from synthseg_bids.inference.register import Registration
from synthseg_bids.inference.soft_segmentation import SoftSegmentation
from synthseg_bids.measure.agreement import AlignmentError
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig

#: Nothing is known of changes.
UNCHANGED = Changes(Grid((1, 1, 1), np.eye(4)))


@pytest.fixture(scope='module')
def visits() -> list[SoftSegmentation]:
    """Two visits of one head, which has moved in between."""
    return [seen(np.eye(4)), seen(motion((6, -4, 5), (4, -3, 2)))]


@pytest.fixture(scope='module')
def registration(visits) -> Registration:
    return register_visits(visits)


def test_without_weight_posteriors_are_the_own(visits, registration):
    found = joint_posteriors(visits, 'ab', registration, UNCHANGED, 1, 0)
    torch.testing.assert_close(found, visits[1].posteriors / 255)


def test_means_are_probabilities_and_close_to_the_head(visits, registration):
    for own in (0, 1):
        found = joint_posteriors(visits, 'ab', registration, UNCHANGED, own, 1)
        torch.testing.assert_close(found.sum(0), torch.ones(found.shape[1:]))
        alike = (found.argmax(0) == visits[own].posteriors.argmax(0)).float().mean()
        assert alike > 0.97


def test_no_visit_is_special(visits, registration):
    forth = joint_posteriors(visits, 'ab', registration, UNCHANGED, 0, 0.8)
    turned = visits[::-1]
    back = joint_posteriors(turned, 'ba', register_visits(turned), UNCHANGED, 1, 0.8)
    torch.testing.assert_close(forth, back, atol=1e-4, rtol=0)


def test_visits_count_the_same_however_many_scans_they_have(visits, registration):
    one, other = visits
    moves = registration.to_scans
    of_three = replace(registration, to_scans=(moves[0], moves[1], moves[1]))
    found = joint_posteriors([one, other, other], 'abb', of_three, UNCHANGED, 0, 1)
    expected = joint_posteriors(visits, 'ab', registration, UNCHANGED, 0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_compared_scans_follow_their_own_intensities(rng):
    labels, affine = head()
    values = tuple(np.unique(labels).tolist())
    smooth = np.stack([gaussian_filter(1.0 * (labels == value), 1.5) for value in values])
    whole = tuple(slice(0, n) for n in labels.shape)
    prior = SoftSegmentation.from_probabilities(
        torch.from_numpy(smooth), values, Grid(labels.shape, affine), whole, np.full(3, 2.0)
    )
    left = {41: 2, 42: 3, 43: 4, 47: 8, 49: 10}
    brightness = np.array([left.get(value, value) % 7 / 7 for value in range(50)])
    image = brightness[labels] + rng.normal(0, 0.02, labels.shape)
    card = ModelCard('x', NetworkConfig(), 2.0, labels=values, intensity_weight=0.75)
    changes = Changes(UNCHANGED.grid, ((0, 2),), {0: torch.zeros(3, 1, 1, 1)})
    scans = [Contrast(image, affine, prior)] * 2
    refined, same = refine_compared(scans, changes, card)
    assert same is prior
    unrefined = replace(card, intensity_weight=0)
    assert refine_compared(scans, changes, unrefined) == [prior, prior]
    torch.testing.assert_close(refined.probabilities().sum(0), torch.ones(labels.shape))
    # Smoothing has made the cortex thinner, which the intensities tell.
    for value in (3, 42):
        true = labels == value
        errors = [
            (one.posteriors[values.index(value)].numpy() > 127) ^ true for one in (prior, refined)
        ]
        assert errors[1].sum() < 0.4 * errors[0].sum()


def test_another_head_is_refused(visits):
    labels, affine = head(0.8)
    with pytest.raises(AlignmentError, match='another head'):
        register_visits([visits[0], SoftSegmentation.from_labels(labels, affine)])


def test_networks_of_other_labels_are_refused(visits):
    other = replace(visits[1], labels=tuple(label + 1 for label in visits[1].labels))
    with pytest.raises(AlignmentError, match='use one model'):
        register_visits([visits[0], other])
