"""Detail across thick slices is restored from the acquired voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ellipsoids import motion
from scipy.ndimage import binary_erosion, gaussian_filter1d

from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.refine import refine
from synthseg_bids.inference.rigid_resample import sample_image
from synthseg_bids.inference.slices import Slices, acquired_slices

THICK_MM = 5
GRID = Grid((40, 40, 40), np.eye(4))
#: Slices turned against the grid, and half outside of it.
AFFINE = motion((4, -3, 2), (3, 1, -4)) @ np.diag([1, 1, THICK_MM, 1.0])


def slices_of(fine: torch.Tensor) -> Slices:
    """Scan an image on the grid with thick slices."""
    blank = torch.zeros(36, 38, 9)
    found = acquired_slices(blank, AFFINE, GRID, np.array([1, 1, THICK_MM]))
    assert found is not None
    apart = -found.with_image(torch.zeros_like(found.image)).acquired_difference(fine)
    return found.with_image(apart)


def interpolated(slices: Slices) -> torch.Tensor:
    """Return the slices interpolated on the grid; they are all of the scan."""
    return sample_image(slices.image, np.linalg.inv(AFFINE) @ GRID.affine, GRID.shape)


@pytest.fixture
def waves() -> torch.Tensor:
    x, y, z = np.indices(GRID.shape)
    return torch.from_numpy(0.5 + 0.3 * np.sin(z / 2.2) * np.sin(x / 9) + 0.1 * (y > 20)).float()


def test_what_slices_show_is_restored(waves):
    slices = slices_of(waves)
    expected = torch.full_like(waves, float(waves.mean()))
    before = slices.acquired_difference(expected)
    changed = expected + slices.residual(expected)
    after = slices.acquired_difference(changed)
    assert after.abs().mean() < 0.2 * before.abs().mean()
    seen = ~interpolated(slices).isnan()
    seen[..., :6] = seen[..., -6:] = seen[:4] = seen[-4:] = seen[:, :4] = seen[:, -4:] = False
    error = (changed - waves)[seen].square().mean()
    assert error < 0.7 * (interpolated(slices) - waves)[seen].square().mean()
    outside = binary_erosion(interpolated(slices).isnan().numpy(), iterations=2)
    assert outside.any()
    assert not slices.residual(expected)[torch.from_numpy(outside)].any()


def test_no_residual_if_all_is_explained(waves):
    assert slices_of(waves).residual(waves).abs().max() < 1e-5


@pytest.mark.parametrize(
    ('affine', 'original'),
    [
        (np.diag([1.0, 1, 1.2, 1]), [1, 1, 1.2]),
        (np.diag([1.0, 1, 2.5, 1]), [1, 1, 5]),
        (AFFINE + motion((0, 0, 0), (500, 0, 0)) - np.eye(4), [1, 1, THICK_MM]),
    ],
)  # fmt: skip
def test_without_slices(affine, original):
    """Fine scans, those that were interpolated before, and those of somewhere else."""
    assert acquired_slices(torch.zeros(36, 38, 9), affine, GRID, np.array(original)) is None


def test_borders_follow_the_slices(waves):
    x, y, z = np.indices(GRID.shape)
    inner = (np.abs(x - 20) < 8) & (np.abs(y - 20) < 12)
    labels = np.where(inner, 1 + (np.sin(z / 2.2) > 0), 0)
    image = torch.from_numpy(np.array([0.1, 0.4, 0.8])[labels]).float()
    slices = slices_of(image)
    # The network has drawn borders too smooth, and 2 mm too high.
    drawn = gaussian_filter1d(np.roll(np.sin(z / 2.2) > 0, 2, axis=2).astype(float), 2, axis=2)
    soft = np.stack([~inner, inner * (1 - drawn), inner * drawn]).astype(np.float32)
    steps = np.array([1.0, 1, THICK_MM])
    scan = interpolated(slices).numpy()

    def right(*known: Slices) -> float:
        start = torch.from_numpy(soft).clone()
        found = refine(start, [scan], 1.0, (0, 1, 2), 2, [steps], slices=known)
        return float((found.argmax(0).numpy() == labels)[inner].mean())

    assert right(slices) > right() + 0.05
