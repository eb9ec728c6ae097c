"""The brain is looked for at half the resolution, and the crop around it corrected if need be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stub_networks import HIPPOCAMPI, SideStub, StubEngine
from torch import Tensor

from synthseg_bids.inference.forward import Prediction
from synthseg_bids.inference.localise import (
    corrected_region,
    crop_box,
    predict_brain,
    region_to_segment,
)
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig

CARD = ModelCard('stub', NetworkConfig(levels=3), 2.0, (64.0, 64.0, 64.0))
SHAPE, BALL = (84, 80, 72), (slice(41, 62), slice(10, 31), slice(26, 47))


@pytest.fixture
def image() -> np.ndarray:
    """A ball in the middle of its bounding box."""
    distances = (
        (index - (part.start + part.stop - 1) / 2) ** 2
        for index, part in zip(np.indices(SHAPE), BALL, strict=True)
    )
    ball = (sum(distances) < 10.5**2).astype(np.float32)
    ball[0, 0, 0] = ball[-1, -1, -1] = 0.2  # no empty borders
    return ball


class CoarseErrors(SideStub):
    """See something else in the scan of half the resolution."""

    def __init__(self, shift: int | None) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == 44:
            x = torch.zeros_like(x) if self.shift is None else x.roll(self.shift, 3)
        return super().forward(x)


def assert_close(found: tuple[slice, ...] | None, expected: tuple[slice, ...]) -> None:
    assert found is not None
    for one, other in zip(found, expected, strict=True):
        assert abs(one.start - other.start) <= 1
        assert abs(one.stop - other.stop) <= 1


@pytest.fixture
def expected() -> tuple[slice, ...]:
    return crop_box(BALL, SHAPE, (64.0,) * 3, 2.0, CARD.network.size_multiple)


def test_half_the_resolution_shows_the_brain(image, expected):
    network = SideStub()
    assert_close(region_to_segment(StubEngine(network, CARD.network), image, CARD), expected)
    assert network.seen == [(44, 40, 36)]


def test_the_whole_resolution_is_looked_at_if_need_be(image, expected):
    network = CoarseErrors(None)
    assert_close(region_to_segment(StubEngine(network, CARD.network), image, CARD), expected)
    assert network.seen == [(44, 40, 36), SHAPE]


@pytest.mark.parametrize(('shift', 'passes'), [(0, 1), (1, 1), (3, 2)])
def test_a_wrong_crop_is_corrected(image, expected, shift, passes):
    network = CoarseErrors(shift)
    engine = StubEngine(network, CARD.network)
    region, prediction = predict_brain(engine, None, image, CARD, None)
    assert network.seen == [(44, 40, 36), *[(32, 32, 32)] * passes]
    assert prediction.posteriors.shape[1:] == (32, 32, 32)
    # A small error is left, the y axis being the one that was rolled.
    assert_close((region[0], region[2]), (expected[0], expected[2]))
    assert abs(region[1].start - expected[1].start) <= (2 if passes == 1 else 1)


def test_nothing_is_corrected_without_a_brain_or_a_crop():
    posteriors = torch.zeros(33, 32, 32, 32)
    posteriors[0] = 1
    region = (slice(0, 32),) * 3
    prediction = Prediction(posteriors, region, torch.zeros(3, 33, dtype=torch.int64))
    assert corrected_region(prediction, region, SHAPE, CARD) is None
    posteriors[0, 20:, 20:, 20:] = 0
    posteriors[HIPPOCAMPI[0], 20:, 20:, 20:] = 1
    assert corrected_region(prediction, region, SHAPE, CARD) == (slice(10, 42),) * 3
    assert corrected_region(prediction, region, SHAPE, replace(CARD, crop_mm=None)) is None
