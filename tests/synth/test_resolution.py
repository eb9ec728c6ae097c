from __future__ import annotations

import pytest
import torch

from synthseg_bids.synth.resolution import (
    Noise,
    NoiseConfig,
    Resolution,
    ResolutionConfig,
    acquire,
    draw_noise,
    draw_resolution,
)


def test_draws_cover_the_published_ranges():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_resolution(ResolutionConfig(), 1.0, generator) for _ in range(2000)]
    full = [d for d in drawn if d.step == (1, 1, 1)]
    coarse = [d for d in drawn if sum(step > 1 for step in d.step) == 1]
    assert abs(len(full) / len(drawn) - 0.05) < 0.02
    assert abs(len(coarse) / len(drawn) - 0.95 * 0.9) < 0.03
    assert 7.5 < max(max(d.step) for d in coarse) <= 8
    assert all(d.sigma[axis] > 0.48 for d in drawn for axis in range(3))
    assert max(max(d.sigma) for d in drawn) <= 0.75 * 8 * 1.03


def test_slices_are_never_thinner_than_the_grid():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_resolution(ResolutionConfig(), 2.0, generator) for _ in range(500)]
    assert min(min(d.step) for d in drawn) == 1
    assert max(max(d.step) for d in drawn) <= 4


def test_thick_slices_blur_one_axis_only():
    image = torch.zeros(24, 24, 24)
    image[:, :, 12:] = 1
    through_x = acquire(image, Resolution((3, 0, 0), (4, 1, 1)))
    through_z = acquire(image, Resolution((0, 0, 3), (1, 1, 4)))
    torch.testing.assert_close(through_x, image)
    assert (through_z[0, 0].diff() > 0.01).sum() > 6


def noisy(noise, resolution, value=0.5):
    image = torch.full((40, 40, 40), value)
    return acquire(image, resolution, noise, torch.Generator().manual_seed(1))


def test_noise_of_thick_slices_is_not_averaged_away():
    fine = noisy(Noise(0.05, False), Resolution((0, 0, 0), (1, 1, 1)))
    thick = noisy(Noise(0.05, False), Resolution((0, 0, 3), (1, 1, 5)))
    assert float(fine.std()) == pytest.approx(0.05, rel=0.02)
    # Linear interpolation between slices keeps two thirds of the variance on average.
    assert float(thick.std()) == pytest.approx(0.05 * (2 / 3) ** 0.5, rel=0.06)
    assert float(thick[..., 0].std()) == pytest.approx(0.05, rel=0.06)


def test_rician_noise_lifts_the_background_as_it_should():
    dark = noisy(Noise(0.1, True), Resolution((0, 0, 0), (1, 1, 1)), value=0.0)
    assert float(dark.mean()) == pytest.approx(0.1 * (torch.pi / 2) ** 0.5, rel=0.02)
    assert float(dark.min()) >= 0
    bright = noisy(Noise(0.02, True), Resolution((0, 0, 0), (1, 1, 1)), value=0.8)
    assert float(bright.mean()) == pytest.approx(0.8, rel=0.01)


def test_noise_is_as_frequent_and_as_strong_as_asked():
    generator = torch.Generator().manual_seed(3)
    drawn = [draw_noise(NoiseConfig(), generator) for _ in range(400)]
    found = [noise for noise in drawn if noise is not None]
    assert 160 < len(found) < 240
    assert all(0.5 / 250 <= noise.std <= 14 / 250 for noise in found)
    assert 0.3 < sum(noise.rician for noise in found) / len(found) < 0.5
