from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats

from synthseg_bids.synth.deform import (
    DeformationConfig,
    affine_matrix,
    deform_labels,
    draw_deformation,
    integrate,
    location_field,
)
from synthseg_bids.synth.linear import apply_along_axes, interpolation_matrix

SHAPE = (33, 41, 37)
STILL = DeformationConfig(
    rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0), field_step=4
)


def deformed(labels, config, seed=0, start=(0, 0, 0), size=None):
    deformation = draw_deformation(config, labels.shape, torch.Generator().manual_seed(seed))
    return torch.cat(
        list(deform_labels(labels, deformation, config, start, size or tuple(labels.shape)))
    )


@pytest.fixture
def labels():
    return torch.randint(0, 50, SHAPE, generator=torch.Generator().manual_seed(0)).byte()


def test_no_deformation_is_the_identity(labels):
    assert torch.equal(deformed(labels, STILL), labels)


def test_a_crop_is_a_part_of_the_whole(labels):
    config = DeformationConfig(translation=2)
    whole = deformed(labels, config)
    crop = deformed(labels, config, start=(3, 5, 2), size=(17, 20, 21))
    assert torch.equal(crop, whole[3:20, 5:25, 2:23])


def test_flip_reverses_the_first_axis(labels):
    config = replace(STILL, flip_probability=1)
    assert torch.equal(deformed(labels, config), labels.flip(0))


def test_whole_voxel_translation(labels):
    config = replace(STILL, translation=3)
    deformation = draw_deformation(config, SHAPE, torch.Generator().manual_seed(0))
    deformation = replace(deformation, translation=torch.tensor([2.0, 0, -1]))
    moved = torch.cat(list(deform_labels(labels, deformation, config, (0, 0, 0), SHAPE)))
    assert torch.equal(moved[:-2, :, 1:], labels[2:, :, :-1])


def test_affine_matrix_of_one_rotation():
    matrix = affine_matrix(torch.tensor([0, 0, torch.pi / 2]), torch.ones(3), torch.zeros(3))
    torch.testing.assert_close(
        matrix @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), atol=1e-6, rtol=0
    )


def test_scaling_and_squaring_has_an_inverse():
    velocity = 1.5 * torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    grow = interpolation_matrix(torch.arange(24) / 8, 4)
    velocity = apply_along_axes(velocity, (grow, grow, grow))
    forth, back = integrate(velocity), integrate(-velocity)
    axes = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing='ij')
    identity = torch.stack(axes)
    where = ((identity + back) * 2 / 23 - 1).flip(0).permute(1, 2, 3, 0)[None]
    composed = back + torch.nn.functional.grid_sample(forth[None], where, align_corners=True)[0]
    error = composed[:, 6:-6, 6:-6, 6:-6].norm(dim=0)
    assert error.mean() < 0.1
    assert error.max() < 0.4
    assert forth.norm(dim=0).max() > 1


def test_paper_deformations_do_not_fold():
    config = replace(DeformationConfig(), field_step=2)
    deformation = draw_deformation(config, (80, 80, 80), torch.Generator().manual_seed(1))
    field = location_field(deformation, config, (80, 80, 80)) / 2
    dx, dy, dz = (
        field.diff(dim=1)[:, :, :-1, :-1],
        field.diff(dim=2)[:, :-1, :, :-1],
        field.diff(dim=3)[:, :-1, :-1, :],
    )
    jacobian = (torch.linalg.cross(dx, dy, dim=0) * dz).sum(0)
    assert (jacobian > 0).float().mean() > 0.999


def test_draws_follow_table_1():
    generator = torch.Generator().manual_seed(0)
    config = DeformationConfig()
    draws = [draw_deformation(config, (64, 64, 64), generator) for _ in range(400)]
    translations = torch.stack([d.translation for d in draws]).flatten().numpy()
    assert stats.kstest(translations, stats.uniform(-20, 40).cdf).pvalue > 0.01
    velocities = torch.stack([d.svf for d in draws]).flatten().numpy()[:10000]
    assert stats.kstest(velocities, stats.norm(0, 3).cdf).pvalue > 0.01
