"""Ventricles and brains of other sizes than the label map's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthseg_bids.labels import CSF, generation_labels, segmentation_labels
from synthseg_bids.synth.anatomy import Anatomy, AnatomyConfig, draw_anatomy, growth
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.generator import GeneratorConfig, apply, deformed_labels, draw
from synthseg_bids.synth.intensity import IntensityConfig

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


def radii(labels):
    """Return the radii of the balls as large as the ventricle and as the brain."""
    ventricle, white = ((labels == ROWS[label]).sum().item() for label in (4, 2))
    return [(n * 3 / 4 / torch.pi) ** (1 / 3) for n in (ventricle, ventricle + white)]


def with_anatomy(head, ventricles, brain):
    parameters = draw(CONFIG, tuple(head.shape), torch.Generator().manual_seed(0))
    parameters = replace(parameters, anatomy=Anatomy(ventricles, brain))
    return radii(deformed_labels(head, parameters, CONFIG))


@pytest.mark.parametrize('far', [-3, 3, 6])
def test_ventricles_move_as_far_as_drawn(head, far):
    before, brain = radii(head)
    after, same = with_anatomy(head, far, 0)
    assert after - before == pytest.approx(far, rel=0.3)
    assert same == pytest.approx(brain, abs=0.2)


@pytest.mark.parametrize('far', [-4, 2])
def test_brains_move_as_far_as_drawn(head, far):
    ventricle, before = radii(head)
    same, after = with_anatomy(head, 0, far)
    assert after - before == pytest.approx(far, rel=0.3)
    assert same == pytest.approx(ventricle, abs=0.5)


def test_the_movement_can_be_undone(head):
    """Whatever the distance, no place is folded over another."""
    moves = growth(head, Anatomy(14, -8), STEP) / STEP
    rows = [torch.stack(torch.gradient(part)) for part in moves]
    jacobian = torch.stack(rows).permute(2, 3, 4, 0, 1) + torch.eye(3)
    assert torch.linalg.det(jacobian).min() > 0
    assert moves.norm(dim=0).max() > 1


def test_nothing_moves_without_a_structure_or_an_anatomy():
    soft = torch.full((24, 24, 24), ROWS[507], dtype=torch.uint8)
    assert not growth(soft, Anatomy(10, -4), STEP).any()
    assert growth(soft, None, STEP) is None


def test_maps_of_any_size_and_step():
    for size in (9, 17, 33):
        labels = torch.full((size, size + 1, size + 5), ROWS[4], dtype=torch.uint8)
        for step in (2, 3, 4, 8):
            moves = growth(labels, Anatomy(2, 2), step)
            assert moves.shape[0] == 3
            # Up to or beyond the last voxel.
            nodes = zip(moves.shape[1:], labels.shape, strict=True)
            assert all((n - 1) * step >= s - 1 - step / 2 for n, s in nodes)


def test_draws_are_as_frequent_and_as_far_as_asked():
    source = torch.Generator().manual_seed(3)
    config = AnatomyConfig(probability=0.3, ventricles=(1, 2), brain=(-5, -4))
    drawn = [draw_anatomy(config, source) for _ in range(300)]
    found = [anatomy for anatomy in drawn if anatomy is not None]
    assert 60 <= len(found) <= 120
    assert all(1 <= anatomy.ventricles <= 2 and -5 <= anatomy.brain <= -4 for anatomy in found)


def test_targets_have_the_anatomy_of_the_image(head):
    """Of a scan without noise, the image's mean within the target's ventricle is constant."""
    config = replace(
        CONFIG,
        anatomy=AnatomyConfig(probability=1, ventricles=(5, 5), brain=(0, 0)),
        intensity=IntensityConfig(std=(0, 0), bias_std=(0, 0), gamma=0),
        blur=0,
    )
    parameters = draw(config, tuple(head.shape), torch.Generator().manual_seed(4))
    image, target = apply(head, parameters, config)
    channel = next(label.channel for label in segmentation_labels() if label.index == 4)
    inside = image[target == channel]
    assert inside.numel() > 1.5 * int((head == ROWS[4]).sum())
    assert float(inside.std()) < 1e-4
