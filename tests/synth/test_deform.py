from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthseg_bids.synth.deform import (
    DeformationConfig,
    affine_matrix,
    deform_labels,
    draw_deformation,
)

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
