"""Headers with wrong axes are detected by the confidence in reoriented copies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from stub_networks import LABELS, StubEngine
from torch import nn

from synthseg_bids.inference.axes import Turn, list_turns, segment_turned, symmetric_axis
from synthseg_bids.inference.confidence import mean_confidence, overall_confidence, unsure_sides
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig

ONE_PASS = NetworkConfig(out_channels=33, levels=1)


@pytest.fixture
def head() -> np.ndarray:
    """Return a volume that is symmetric along its first axis alone."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 24, 22)], indexing='ij')
    inside = (x**2 + (y / 0.9) ** 2 + (z / 0.8) ** 2) < 0.8
    return (inside * (2 + y + 0.5 * z + abs(x))).astype(np.float32)


class UprightStub(nn.Module):
    """Be sure of heads whose front is bright and whose top is brighter than their base."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x[0, 0].float()
        y, z = (torch.linspace(-1, 1, image.shape[axis]) for axis in (1, 2))
        front = (image * y[None, :, None]).sum() / image.sum()
        top = (image * z[None, None]).sum() / image.sum()
        sure = 0.9 if front > 2 * top and top > 0 else 0.6
        logits = torch.full((1, 33, *image.shape), -20.0)
        logits[0, 0] = torch.where(image > 0, -20.0, 20.0)
        logits[0, 1] = torch.where(image > 0, float(np.log(sure)), -20.0)
        logits[0, 2] = torch.where(image > 0, float(np.log(1 - sure)), -20.0)
        return logits


def code_of(affine: np.ndarray) -> str:
    """Return where the axes of an array run to, by the true affine of a RAS array turned."""
    import nibabel as nib

    return ''.join(nib.aff2axcodes(affine))


def test_the_plane_of_symmetry_is_found(head):
    for axes in itertools.permutations(range(3)):
        assert symmetric_axis(head.transpose(axes)) == axes.index(0)


@pytest.mark.parametrize('sideways', range(3))
def test_turns_undo_what_headers_get_wrong(head, sideways, rng):
    """A turn brings a volume upright, and its code is that of the volume before."""
    turns = list(list_turns(sideways))
    assert len(set(turns)) == 8
    for turn in turns:
        upright = turn.image(head)
        affine = np.eye(4)
        # Voxel (i, j, k) of the scan lies at these true coordinates.
        for true_axis, (axis, back) in enumerate(zip(turn.axes, turn.reverse, strict=True)):
            affine[true_axis, :3] = 0
            affine[true_axis, axis] = -1 if back else 1
        assert turn.code == code_of(affine)
        where = tuple(slice(2, 2 + n) for n in rng.integers(3, 9, 3))
        np.testing.assert_array_equal(
            upright[turn.box(where, head.shape)], turn.image(head[where])
        )


@pytest.mark.parametrize(
    'turn',
    [Turn(), *itertools.islice(list_turns(0), 1, None), *list_turns(1)],
    ids=lambda t: t.code,
)
def test_the_network_tells_how_a_head_lies(head, turn):
    engine = StubEngine(UprightStub(), ONE_PASS)
    card = ModelCard('stub', ONE_PASS, spacing_mm=1.0, labels=LABELS)
    lying = np.empty([head.shape[turn.axes.index(axis)] for axis in range(3)], np.float32)
    turn.image(lying)[:] = head
    whole = tuple(slice(0, n) for n in lying.shape)
    found = segment_turned(engine, lying, whole, card)
    assert found.code == turn.code
    expected = 0 if turn == Turn() else 0.3 / 32
    assert found.gain == pytest.approx(expected, abs=1e-3)


def test_confidence_counts_missing_structures():
    posteriors = torch.zeros(4, 2, 2, 2)
    posteriors[0, 0], posteriors[1, 0] = 0.2, 0.8
    posteriors[0, 1] = 1
    confidence = mean_confidence(*posteriors.max(0), len(posteriors))
    np.testing.assert_allclose(confidence, [np.nan, 0.8, np.nan, np.nan])
    assert overall_confidence(confidence) == pytest.approx(0.8 / 3)


def test_regions_that_are_unsure_are_measured_by_side_borders_are_not():
    labels = [0, 2, 41, 3, 16]
    posteriors = torch.zeros(5, 40, 40, 40)
    posteriors[1, :20] = posteriors[2, 20:] = 1
    sure = posteriors.clone()

    def fill(where: slice, *values: float) -> tuple[float, float]:
        posteriors.copy_(sure)
        posteriors[:, where, 5:17, 5:17] = torch.tensor(values)[:, None, None, None]
        return unsure_sides(posteriors, *posteriors.max(0), labels, 1.0)

    assert unsure_sides(posteriors, *posteriors.max(0), labels, 1.0) == (0, 0)
    left, right = fill(slice(5, 17), 0, 0.4, 0, 0.3, 0.3)
    assert 0.75 * 12**3 < left <= 12**3
    assert right == 0
    assert unsure_sides(posteriors, *posteriors.max(0), labels, 2.0)[0] == pytest.approx(
        8 * 12**3, rel=0.15
    )
    assert fill(slice(24, 36), 0, 0, 0.4, 0.3, 0.3) == (0, left)
    # The brainstem has no side, a border is thin, two labels that are equally likely have a bit.
    assert fill(slice(5, 17), 0, 0.3, 0, 0.3, 0.4) == (0, 0)
    assert fill(slice(5, 8), 0, 0.4, 0, 0.3, 0.3) == (0, 0)
    assert fill(slice(5, 17), 0, 0.5, 0, 0.5, 0) == (0, 0)
