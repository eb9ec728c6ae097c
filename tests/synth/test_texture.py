"""Textures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_scans import PLAIN, ROWS, SIZE

from synthseg_bids.synth.generator import apply
from synthseg_bids.synth.parameters import draw
from synthseg_bids.synth.texture import TextureConfig, add_texture, draw_texture, interpolated

NONE = TextureConfig(share=(0, 0))


@pytest.fixture
def labels():
    """Return white matter of two sides beside cortex."""
    head = torch.full(SIZE, ROWS[3], dtype=torch.uint8)
    head[:16], head[16:32] = ROWS[41], ROWS[2]
    return head


def make(labels, texture, seed=0):
    config = replace(PLAIN, texture=texture)
    parameters = draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))
    return apply(labels, parameters, config)


def neighbours(values):
    """Return the correlation of voxels with the next along the first axis."""
    pairs = torch.stack([values[:-1].flatten(), values[1:].flatten()])
    return float(torch.corrcoef(pairs)[0, 1])


@pytest.mark.parametrize('share', [0, 0.5, 1])
def test_textures_keep_the_variance_and_correlate_neighbours(share):
    config = TextureConfig(share=(share, share), size_mm=(8, 8))
    generator = torch.Generator().manual_seed(1)
    texture = draw_texture(config, SIZE, 1.0, generator)
    noise = add_texture(torch.randn(SIZE, generator=generator), texture)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    # Linear interpolation at an eighth of the distance is nearly constant.
    assert neighbours(noise) == pytest.approx(0.97 * share, abs=0.04)


@pytest.mark.parametrize('size_mm', [2, 6, 100])
def test_textures_are_as_coarse_as_asked(size_mm):
    config = TextureConfig(size_mm=(size_mm, size_mm))
    texture = draw_texture(config, SIZE, 2.0, torch.Generator().manual_seed(1))
    assert texture.field.shape == tuple(max(2, -(-n * 2 // size_mm)) for n in SIZE)


def test_without_textures_noise_is_distributed_as_it_was(labels):
    image, target = make(labels, None, seed=3)
    again, same = make(labels, NONE, seed=3)
    assert torch.equal(target, same)
    # Their draws come between, so that the noise differs but not its distribution.
    assert float(again.std()) == pytest.approx(float(image.std()), rel=0.15)
    assert neighbours(again) == pytest.approx(0, abs=0.02)


def test_an_image_has_the_texture(labels):
    image = make(labels, replace(NONE, share=(1, 1), size_mm=(10, 10)))[0]
    assert neighbours(image) > 0.9


def test_interpolated_values_are_standard():
    values = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(2))
    found = interpolated(values, SIZE)
    assert found.shape == SIZE
    torch.testing.assert_close(found.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(), torch.tensor(1.0))


def test_the_same_draw_gives_the_same_textures(labels):
    first, second = (make(labels, TextureConfig(), 5) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
