"""Lesions as part of the tissue that they lie in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthseg_bids import Segmenter
from synthseg_bids.inference.fold_lesions import fold_lesions
from synthseg_bids.inference.options import SegmentOptions
from synthseg_bids.labels import LESION, LESION_TISSUES, network_labels
from synthseg_bids.models.card import ModelCard, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D

LABELS = network_labels(lesions=True)


def test_lesions_become_the_tissue_around_them():
    source = torch.Generator().manual_seed(0)
    before = torch.rand(len(LABELS), 6, 6, 6, generator=source).log().mul(4).softmax(0)
    before[:, 0] = 0
    before[-1, 0] = 0.9
    before[LABELS.index(41), 0] = 0.1
    after = fold_lesions(before.clone(), LABELS)
    torch.testing.assert_close(after.sum(0), before.sum(0))
    assert (after[:, 0].argmax(0) == LABELS.index(41)).all()
    for channel, label in enumerate(LABELS[:-1]):
        if label in LESION_TISSUES:
            assert (after[channel] >= before[channel]).all()
        else:
            assert torch.equal(after[channel], before[channel])


def test_voxels_that_are_nothing_but_lesion_stay_brain():
    before = torch.zeros(len(LABELS), 2, 2, 2)
    before[-1] = 1
    after = fold_lesions(before, LABELS)
    torch.testing.assert_close(after.sum(0), torch.ones(2, 2, 2))


def test_labels_without_lesions_cannot_be_folded():
    with pytest.raises(ValueError, match='the last one is to be 77'):
        fold_lesions(torch.zeros(33, 2, 2, 2), network_labels())


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match='lesions'):
        SegmentOptions(lesions='drop')
    with pytest.raises(ValueError, match='lesions'):
        Segmenter(lesions='drop')


def test_a_network_with_lesions_can_be_asked_for_none(tmp_path):
    config = NetworkConfig(
        out_channels=len(LABELS), features=2, levels=2, norm='instance', norm_placement='conv'
    )
    network = UNet3D(config)
    torch.nn.init.zeros_(network.likelihood.weight)
    with torch.no_grad():
        network.likelihood.bias[LABELS.index(2)] = 9
        network.likelihood.bias[-1] = 10
    card = ModelCard(name='lesions', network=config, spacing_mm=4.0, labels=LABELS)
    save_model(tmp_path / 'model.safetensors', network, card)
    scan = np.random.default_rng(0).normal(100, 10, (32, 32, 32)).astype(np.float32)
    for lesions, channels, expected in (('label', 34, LESION), ('fold', 33, 2)):
        segment = Segmenter(tmp_path / 'model.safetensors', 'cpu', flip=False, lesions=lesions)
        found = segment.segment(scan, np.eye(4), posteriors=True)
        assert np.unique(found.labels).tolist() == [expected]
        assert len(found.posteriors) == len(found.volumes_mm3) == channels
        assert len(found.confidence) == channels
