"""Posteriors are computed near the brain only, where they are those of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.forward import infer
from synthseg_bids.inference.output import (
    NEAR,
    NO_TRACE,
    TRACE,
    Passes,
    boxes_near,
    channels_near,
    softmax_,
    survey,
)
from synthseg_bids.labels import mirror_channels
from synthseg_bids.models.unet import NetworkConfig, UNet3D

CONFIG = NetworkConfig(
    features=4, levels=2, skip='add', decoder_convs=1, sub_voxels=2, output_features=6
)


@pytest.fixture
def engine() -> Engine:
    """Call everything background but for what is far brighter than zero."""
    torch.manual_seed(0)
    network = UNet3D(CONFIG)
    with torch.no_grad():
        # All voxels of a block are alike, as they nearly are in a trained network.
        weight = network.likelihood.weight.view(8, 33, -1)
        weight.copy_(30 * weight[0])
        assert network.likelihood.bias is not None
        bias = network.likelihood.bias.view(8, 33)
        bias.copy_(bias[0].clone())
        bias[:, 0].add_(12)
    return Engine(network, torch.device('cpu'), torch.float32)


@pytest.fixture
def image(rng) -> torch.Tensor:
    scan = torch.zeros(62, 70, 58)
    scan[20:40, 30:55, 15:40] = torch.from_numpy(rng.random((20, 25, 25), dtype=np.float32)) * 40
    return scan


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('channels', [None, [0, 16]])
def test_near_the_brain_posteriors_are_those_of_the_whole(engine, image, flip, channels):
    mirror = mirror_channels() if flip else None
    every = infer(engine, image, mirror, channels=channels)
    near = infer(engine, image, mirror, channels=channels, brain_only=True)
    assert every.box == tuple(slice(0, n) for n in image.shape)
    assert 0 < near.posteriors[0].numel() < 0.7 * image.numel()
    background = torch.zeros_like(every.posteriors)
    background[0] = 1
    background[(slice(None), *near.box)] = near.posteriors
    apart = (background - every.posteriors).abs().amax(0)
    assert every.posteriors[0][apart > 1e-6].amin() > 1 - 10 * TRACE
    inside = every.posteriors[0] < 0.75
    assert inside.any()
    assert apart[inside].max() < 10 * NO_TRACE
    assert torch.equal(near.counts, every.counts)


def test_an_image_of_background_has_no_posteriors(engine):
    found = infer(engine, torch.zeros(64, 64, 64), mirror_channels(), brain_only=True)
    assert found.posteriors.shape == (33, 0, 0, 0)


def test_boxes_are_near_the_foreground():
    foreground = np.zeros((20, 12, 9), dtype=bool)
    foreground[4, 3, 5] = foreground[12, 11, 0] = True
    boxes = boxes_near(foreground)
    planes = [box[0].start for box in boxes]
    assert planes == [*range(4 - NEAR, 5 + NEAR), *range(12 - NEAR, 13 + NEAR)]
    assert boxes[0][1:] == (slice(3 - NEAR, 4 + NEAR), slice(5 - NEAR, 6 + NEAR))
    assert boxes[-1][1:] == (slice(11 - NEAR, 12), slice(0, 1 + NEAR))
    assert boxes_near(np.zeros((3, 3, 3), dtype=bool)) == []


@torch.inference_mode()
def test_channels_are_those_that_show_near_a_block(engine, image):
    features = engine.features(image[None, None, :32, :32, :32])
    found = Passes(engine, features)
    _, largest, _ = survey(found)
    (every,) = found.weighted(found.whole, position=0)
    assert torch.equal(largest, every[0].amax(3))
    largest.fill_(0.5 * NO_TRACE)
    largest[5, 3, 8] = largest[7, 6, 9] = 2 * NO_TRACE
    rows = slice(0, 16)
    assert channels_near(largest, (slice(4, 6), slice(9, 10), rows)).tolist() == [0, 5, 7]
    assert channels_near(largest, (slice(5, 6), slice(9, 10), rows)).tolist() == [0, 7]
    assert channels_near(largest, (slice(9, 10), slice(9, 10), rows)).tolist() == [0]


def test_softmax_is_that_of_pytorch():
    logits = torch.randn(2, 33, 5, 6, 7) * 200
    expected = logits.softmax(1)
    torch.testing.assert_close(softmax_(logits.clone(), 0.5), expected / 2, atol=2e-6, rtol=1e-4)
