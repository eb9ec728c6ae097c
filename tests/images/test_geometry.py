"""Grids: orientation, spacing, and resampling that moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grids import ORIENTATIONS, centre_of_mass_mm, oriented_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import io_orientation

from synthseg_bids.images.geometry import (
    Grid,
    bounding_box,
    from_ras,
    orientation,
    resampling_matrix,
    spacing_mm,
    to_ras,
    voxel_volume_mm3,
)
from synthseg_bids.images.resampling import resample


def blob(
    shape: tuple[int, ...], affine: np.ndarray, centre_mm: np.ndarray, sigma_mm: float
) -> np.ndarray:
    """Sample a Gaussian that is defined in mm."""
    positions = np.indices(shape).reshape(3, -1)
    positions = affine[:3, :3] @ positions + affine[:3, 3:]
    squared = ((positions - centre_mm[:, None]) ** 2).sum(0)
    return np.exp(-squared / 2 / sigma_mm**2).reshape(shape)


@pytest.mark.parametrize('tilt', [0, 20])
@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_orientation_agrees_with_nibabel(codes, tilt):
    affine = oriented_affine(codes, (1, 2, 3), tilt)
    found = orientation(affine)
    theirs = io_orientation(affine)
    assert [int(theirs[axis, 0]) for axis in found.axes] == [0, 1, 2]
    assert [theirs[axis, 1] < 0 for axis in found.axes] == list(found.flips)


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_ras_keeps_every_voxel_where_it_is(codes, rng):
    affine = oriented_affine(codes, (1, 2, 3), 15)
    array = rng.normal(size=(3, 4, 5))
    orient = orientation(affine)
    turned, turned_affine = to_ras(array, orient), Grid(array.shape, affine).in_ras().affine
    for index in [(0, 0, 0), (2, 0, 1), (1, 3, 4)]:
        position = affine @ [*index, 1]
        new = np.linalg.solve(turned_affine, position)[:3].round().astype(int)
        assert turned[tuple(new)] == array[index]
    assert orientation(turned_affine).axes == (0, 1, 2)
    assert not any(orientation(turned_affine).flips)
    np.testing.assert_array_equal(from_ras(turned, orient), array)
    stack = rng.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(from_ras(to_ras(stack, orient), orient), stack)


def test_orientation_of_an_even_tie_is_a_permutation():
    half = np.sqrt(0.5)
    affine = np.eye(4)
    affine[:2, :2] = [[half, -half], [half, half]]
    assert sorted(orientation(affine).axes) == [0, 1, 2]


def test_spacing_and_volume_of_a_sheared_grid():
    affine = np.array([[2, 1, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(spacing_mm(affine), [2, np.sqrt(10), 4])
    assert voxel_volume_mm3(affine) == pytest.approx(24)


@settings(deadline=None)
@given(
    n_in=st.integers(1, 40),
    n_out=st.integers(1, 40),
    step=st.floats(0.1, 8),
)
def test_weights_average(n_in, n_out, step):
    matrix = resampling_matrix(n_in, n_out, step)
    assert matrix.shape == (n_out, n_in)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    # Symmetric grids give symmetric weights: nothing moves to one side.
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-5)


@settings(deadline=None)
@given(n=st.integers(12, 40), spacing=st.floats(0.3, 6), new=st.floats(0.3, 6))
def test_ramps_keep_their_position(n, spacing, new):
    """A voxel's position, resampled as an intensity, is the position of the new voxel."""
    grid = Grid((n, n, n), np.diag([spacing, spacing, spacing, 1])).resampled(new)
    matrix = resampling_matrix(n, grid.shape[0], new / spacing)
    positions = matrix @ (np.arange(n) * spacing)
    expected = grid.affine[0, 0] * np.arange(grid.shape[0]) + grid.affine[0, 3]
    # Away from the ends, where the window is not cut off.
    reach = new + spacing
    inner = (expected > reach) & (expected < (n - 1) * spacing - reach)
    np.testing.assert_allclose(positions[inner], expected[inner], atol=2e-4 * n * spacing)


def test_same_spacing_changes_nothing():
    np.testing.assert_array_equal(resampling_matrix(7, 7, 1.0), np.eye(7))
    grid = Grid((7, 8, 9), np.diag([1, 1, 1, 1]))
    assert grid.resampled(1.0).shape == (7, 8, 9)
    np.testing.assert_array_equal(grid.resampled(1.0).affine, np.eye(4))
    assert grid.is_close(grid.resampled(1.0))
    assert not grid.is_close(grid.resampled(2.0))


def test_axes_that_keep_their_spacing_are_not_touched(rng):
    volume = rng.random((5, 6, 7), dtype=np.float32)
    same = [resampling_matrix(n, n, 1.0) for n in volume.shape]
    assert resample(volume, same) is volume
    half = resampling_matrix(6, 3, 2.0)
    np.testing.assert_allclose(resample(volume, [same[0], half, same[2]]), half @ volume)
    shifted = resampling_matrix(5, 4, 1.0)
    assert resample(volume, [shifted, *same[1:]]).shape == (4, 6, 7)


def test_up_sampling_agrees_with_torch(rng):
    volume = rng.normal(size=(4, 5, 3)).astype(np.float32)
    matrices = [resampling_matrix(n, 2 * n, 0.5) for n in volume.shape]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(volume)[None, None], scale_factor=2, mode='trilinear', align_corners=False
    )[0, 0]
    np.testing.assert_allclose(resample(volume, matrices), expected, atol=1e-5)
    tensors = resample(torch.from_numpy(volume), [torch.from_numpy(m) for m in matrices])
    torch.testing.assert_close(tensors, expected)


@pytest.mark.parametrize('step', [2, 3, 5.3])
def test_down_sampling_suppresses_noise_like_averaging(step, rng):
    noise = rng.normal(size=4000)
    matrix = resampling_matrix(4000, int(4000 / step), step)
    assert (matrix @ noise).std() == pytest.approx(1 / np.sqrt(step), rel=0.15)


def test_field_of_view_is_covered_and_centred():
    affine = oriented_affine('LPS', (0.5, 0.9, 5), 12)
    grid = Grid((50, 40, 7), affine).resampled(1.5)
    shape, new = grid.shape, grid.affine
    np.testing.assert_allclose(spacing_mm(new), 1.5)
    assert (np.array(shape) * 1.5 >= np.array([25, 36, 35]) - 1e-2).all()
    assert (np.array(shape) * 1.5 < np.array([25, 36, 35]) + 1.5).all()
    old_centre = affine[:3, :3] @ (np.array([49, 39, 6]) / 2) + affine[:3, 3]
    new_centre = new[:3, :3] @ ((np.array(shape) - 1) / 2) + new[:3, 3]
    np.testing.assert_allclose(old_centre, new_centre)


@pytest.mark.parametrize(
    ('shape', 'spacing'),
    [
        ((40, 44, 36), (1.0, 1.0, 1.0)),
        ((80, 76, 8), (0.5, 0.5, 5.0)),
        ((14, 40, 52), (3.0, 1, 0.8)),
    ],
)
def test_structures_keep_their_position(shape, spacing):
    affine = oriented_affine('PIR', spacing, 25)
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    volume = blob(shape, affine, middle + np.array([1.3, -2.1, 0.7]), 3.5)
    grid = Grid(shape, affine).resampled(1.5)
    matrices = [
        resampling_matrix(a, b, 1.5 / s)
        for a, b, s in zip(shape, grid.shape, spacing, strict=True)
    ]
    moved = resample(volume, matrices)
    shift = centre_of_mass_mm(moved, grid.affine) - centre_of_mass_mm(volume, affine)
    assert np.linalg.norm(shift) < 0.05 * 1.5


def test_bounding_box_of_nothing():
    assert bounding_box(np.zeros((3, 4, 5), dtype=bool)) is None
    assert bounding_box(np.zeros((0, 0, 0), dtype=bool)) is None
    assert bounding_box(np.ones((2, 1, 3), dtype=bool)) == (slice(0, 2), slice(0, 1), slice(0, 3))
