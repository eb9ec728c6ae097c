"""The ventricles of a label map grow and shrink."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthseg_bids.labels import CSF, generation_labels, segmentation_labels
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.generator import apply, deformed_labels
from synthseg_bids.synth.intensity import IntensityConfig
from synthseg_bids.synth.parameters import GeneratorConfig, draw
from synthseg_bids.synth.ventricles import VentricleConfig, draw_growth, grow_ventricles

ROWS = {label.index: row for row, label in enumerate(generation_labels())}
SIZE, STEP = 96, 8
STILL = DeformationConfig(
    rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0), field_step=STEP
)
CONFIG = GeneratorConfig(size=None, deformation=STILL, skull_strip_probability=0)


def ball(radius):
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing='ij')
    return x**2 + y**2 + z**2 < radius**2


@pytest.fixture(scope='module')
def head():
    """Return a ventricle in white matter in fluid in soft tissue, all balls."""
    labels = torch.full((SIZE, SIZE, SIZE), ROWS[507], dtype=torch.uint8)
    for label, radius in ((CSF, 42), (2, 36), (4, 12)):
        labels[ball(radius)] = ROWS[label]
    return labels


def radius(labels, *among):
    """Return the radius of the ball that is as large as some labels."""
    volume = sum((labels == ROWS[label]).sum().item() for label in among)
    return (volume * 3 / 4 / torch.pi) ** (1 / 3)


@pytest.mark.parametrize('step', [4, 8])
@pytest.mark.parametrize('growth', [-3, 3, 6])
def test_the_border_moves_as_far_as_drawn(head, growth, step):
    config = replace(CONFIG, deformation=replace(STILL, field_step=step))
    parameters = draw(config, tuple(head.shape), torch.Generator().manual_seed(0))
    found = deformed_labels(head, replace(parameters, growth=growth), config)
    assert radius(found, 4) - radius(head, 4) == pytest.approx(growth, rel=0.3)
    # It has not reached the brain's own border.
    assert radius(found, 2, 4) == pytest.approx(radius(head, 2, 4), abs=0.2)
    middle = (found == ROWS[4]).nonzero().float().mean(0)
    torch.testing.assert_close(middle, torch.full((3,), (SIZE - 1) / 2), atol=0.15, rtol=0)


@pytest.mark.parametrize('growth', [-8, 14])
def test_the_movement_can_be_undone(head, growth):
    """Whatever the distance, no place is folded over another."""
    moves = grow_ventricles(head, growth, STEP) / STEP
    rows = [torch.stack(torch.gradient(part)) for part in moves]
    jacobian = torch.stack(rows).permute(2, 3, 4, 0, 1) + torch.eye(3)
    assert torch.linalg.det(jacobian).min() > 0
    assert moves.norm(dim=0).max() > 0.5


@pytest.mark.parametrize('step', [1, 2, 4, 8])
def test_nothing_moves_without_ventricles_or_growth(step):
    soft = torch.full((24, 24, 24), ROWS[507], dtype=torch.uint8)
    assert not grow_ventricles(soft, 20, step).any()
    # Nor where there is nothing else.
    everywhere = grow_ventricles(torch.full_like(soft, ROWS[4]), 20, step)
    assert everywhere.abs().max() < 0.01
    assert grow_ventricles(soft, 0, step) is None


@pytest.mark.parametrize('step', [2, 3, 4, 8, 9, 14])
def test_nodes_are_a_step_apart_and_reach_the_end(step):
    for size in (17, 33, 40):
        labels = torch.full((size, size + 1, size + 5), ROWS[2], dtype=torch.uint8)
        labels[6:12, 6:12, 6:12] = ROWS[4]
        moves = grow_ventricles(labels, 2, step)
        for nodes, voxels in zip(moves.shape[1:], labels.shape, strict=True):
            assert abs((nodes - 1) * step - (voxels - 1)) <= step


def test_draws_are_as_frequent_and_as_large_as_asked():
    source = torch.Generator().manual_seed(3)
    config = VentricleConfig(probability=0.3, growth=(1, 2))
    drawn = [draw_growth(config, source) for _ in range(300)]
    found = [growth for growth in drawn if growth]
    assert 60 <= len(found) <= 120
    assert all(1 <= growth <= 2 for growth in found)


def test_targets_have_the_ventricles_of_the_image(head):
    """Of a scan without noise, the image within the target's ventricle is constant."""
    config = replace(
        CONFIG,
        ventricles=VentricleConfig(probability=1, growth=(5, 5)),
        intensity=IntensityConfig(std=(0, 0), bias_std=(0, 0), gamma=0),
        blur=(0, 0),
    )
    parameters = draw(config, tuple(head.shape), torch.Generator().manual_seed(4))
    image, target = apply(head, parameters, config)
    channel = next(label.channel for label in segmentation_labels() if label.index == 4)
    inside = image[target == channel]
    assert inside.numel() > 1.5 * int((head == ROWS[4]).sum())
    assert float(inside.std()) < 1e-4
