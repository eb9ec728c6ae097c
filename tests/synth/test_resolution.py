from __future__ import annotations

import torch

from synthseg_bids.synth.resolution import Resolution, ResolutionConfig, acquire, draw_resolution


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
