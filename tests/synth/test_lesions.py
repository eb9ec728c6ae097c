"""Lesions of the white matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_scans import PLAIN, ROWS

from synthseg_bids.labels import LESION, network_labels, segmentation_labels
from synthseg_bids.synth.generator import apply, deformed_labels, draw
from synthseg_bids.synth.lesions import LesionConfig

CHANNELS = {label.index: label.channel for label in segmentation_labels(lesions=True)}
BOTH = LesionConfig(probability=1, share=(0.1, 0.1), periventricular=(0, 0), juxtacortical=(0, 0))


@pytest.fixture
def labels():
    """Return white matter of two sides between a ventricle and cortex."""
    head = torch.full((48, 40, 40), ROWS[3], dtype=torch.uint8)
    head[:32, :, 8:] = ROWS[2]
    head[:16, :, 8:] = ROWS[41]
    head[:32, :, 36:] = ROWS[4]
    return head


def make(labels, lesions, seed=0, lesion_label=True):
    config = replace(PLAIN, lesions=lesions, lesion_label=lesion_label)
    parameters = draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))
    _, target = apply(labels, parameters, config)
    return target, deformed_labels(labels, parameters, config)


def test_lesions_lie_in_the_white_matter_of_their_side(labels):
    for seed in range(8):
        target, shown = make(labels, BOTH, seed)
        left, right = shown == ROWS[25], shown == ROWS[57]
        assert (labels[left] == ROWS[2]).all()
        assert (labels[right] == ROWS[41]).all()
        assert torch.equal(target == CHANNELS[LESION], left | right)
        white = (labels == ROWS[2]) | (labels == ROWS[41])
        share = float((left | right).sum() / white.sum())
        assert share == pytest.approx(0.1, abs=0.02)


def test_folded_lesions_are_white_matter(labels):
    target, shown = make(labels, BOTH, lesion_label=False)
    assert (shown == ROWS[25]).any()
    assert (target[labels == ROWS[2]] == CHANNELS[2]).all()
    assert (target[labels == ROWS[41]] == CHANNELS[41]).all()


def test_lesions_are_as_frequent_as_asked(labels):
    config = replace(BOTH, probability=0.3)
    found = [bool((make(labels, config, seed)[0] == CHANNELS[LESION]).any()) for seed in range(80)]
    assert 12 <= sum(found) <= 36


@pytest.mark.parametrize(('near', 'slices'), [('periventricular', slice(32, 36)),
                                              ('juxtacortical', slice(8, 12))])  # fmt: skip
def test_lesions_gather_where_they_are_asked_to(labels, near, slices):
    def beside(config):
        masks = [make(labels, config, seed)[0] == CHANNELS[LESION] for seed in range(6)]
        return float(sum(mask[..., slices].sum() for mask in masks)) / float(
            sum(map(torch.sum, masks))
        )

    assert beside(replace(BOTH, **{near: (3, 3)})) > 1.5 * beside(BOTH)


def test_a_head_without_white_matter_has_no_lesions(labels):
    target, _ = make(torch.full_like(labels, ROWS[3]), BOTH)
    assert not (target == CHANNELS[LESION]).any()


def test_lesions_are_the_last_channel_of_networks_that_know_them():
    assert network_labels(lesions=True) == (*network_labels(), LESION)
    assert CHANNELS[LESION] == len(network_labels())


def test_lesions_below_the_tentorium_only_where_they_are_a_label(labels):
    labels[24:32, :, 8:36] = ROWS[16]
    labels[:8, :, 8:36] = ROWS[46]
    below = (labels == ROWS[16]) | (labels == ROWS[46])
    often = replace(BOTH, infratentorial=(4, 4))
    target, shown = make(labels, often)
    assert (target[below] == CHANNELS[LESION]).any()
    assert (shown[labels == ROWS[16]] != ROWS[57]).all()
    assert (shown[labels == ROWS[46]] != ROWS[25]).all()
    target, _ = make(labels, often, lesion_label=False)
    assert (target[labels == ROWS[16]] == CHANNELS[16]).all()
    assert (target[labels == ROWS[46]] == CHANNELS[46]).all()
    seldom, _ = make(labels, replace(BOTH, infratentorial=(-20, -20)))
    assert not (seldom[below] == CHANNELS[LESION]).any()
