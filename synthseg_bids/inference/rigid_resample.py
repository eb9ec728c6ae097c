"""Move grids rigidly, and resample volumes between those that are turned against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from ..images.geometry import bounding_box, widen_box
from .postprocess import NOWHERE, Box


def rigid_matrix(
    change: np.ndarray, centre: np.ndarray | Sequence[float] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """Return the matrix of a translation and of a rotation around a centre.

    Parameters
    ----------
    change : (6,) array
        Translation in mm, then the rotation vector in radians.
    centre : (3,) array or sequence of float
        Centre of the rotation, in mm.

    Returns
    -------
    (4, 4) array
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(change[3:]).as_matrix()
    matrix[:3, 3] = np.asarray(centre) + change[:3] - matrix[:3, :3] @ centre
    return matrix


def voxel_indices(shape: Sequence[int]) -> Tensor:
    """Return the ``(x, y, z, 3)`` float32 indices of all voxels of a grid."""
    axes = (torch.arange(n).float() for n in shape)
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)


def voxel_places(matrix: np.ndarray, box: Box) -> Tensor:
    """Return where the voxels of a box lie in another grid.

    Parameters
    ----------
    matrix : (4, 4) array
        Maps voxel indices of the box's grid to those of the other.
    box : tuple of slice

    Returns
    -------
    (3, x, y, z) float32 tensor
    """
    return torch.stack([*_rows(matrix, box)])


def _rows(matrix: np.ndarray, box: Box) -> Iterator[Tensor]:
    """Yield one coordinate after the other of :func:`voxel_places`."""
    x, y, z = (torch.arange(part.start, part.stop).float() for part in box)
    for by_x, by_y, by_z, shift in matrix[:3].tolist():
        yield (by_x * x[:, None, None] + shift) + by_y * y[:, None] + by_z * z


def sample(volume: Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[Box, Tensor]:
    """Interpolate a volume linearly on another grid, where it is not zero.

    Parameters
    ----------
    volume : (x, y, z) tensor
        Zero outside of its grid.
    matrix : (4, 4) array
        Maps voxel indices of the other grid to those of the volume.
    shape : (3,) tuple of int
        Of the other grid.

    Returns
    -------
    box : tuple of slice
        Smallest box in the other grid around all voxels that depend on the volume's values; empty
        if there are none.
    part : float32 tensor
        The values in it.
    """
    boxes = reached(volume, matrix, shape)
    if boxes is None:
        return NOWHERE, torch.zeros(0, 0, 0)
    support, box = boxes
    to_part = np.array(matrix, dtype=float)
    to_part[:3, 3] += matrix[:3, :3] @ [part.start for part in box]
    to_part[:3, 3] -= [part.start for part in support]
    return box, _interpolated(volume[support].float(), to_part, box)


def reached(volume: Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[Box, Box] | None:
    """Return where a volume is not zero, and the voxels of another grid that depend on that.

    Parameters
    ----------
    volume, matrix, shape
        See :func:`sample`.

    Returns
    -------
    two tuples of slice, or None
        Boxes in the volume and in the other grid; None if there is nothing.
    """
    support = bounding_box(volume.numpy() > 0)
    if support is None:
        return None
    # A margin of zeros, towards which the values fall off.
    support = widen_box(support, 1, volume.shape)
    ends = [(part.start - 1, part.stop) for part in support]
    corners = np.array([[*corner, 1] for corner in product(*ends)]) @ np.linalg.inv(matrix).T
    low = np.maximum(np.ceil(corners[:, :3].min(axis=0) - 1e-6).astype(int), 0)
    high = np.minimum(np.floor(corners[:, :3].max(axis=0) + 1e-6).astype(int) + 1, shape)
    if (high <= low).any():
        return None
    return support, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def sample_image(volume: Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Interpolate an image linearly on another grid; NaN outside of its field of view.

    Parameters
    ----------
    volume, matrix, shape
        See :func:`sample`.

    Returns
    -------
    shape float32 tensor
    """
    found = sample_whole(volume.float(), matrix, shape, 'border')
    return found.masked_fill_(~inside(matrix, shape, volume.shape), torch.nan)


def sample_whole(
    volume: Tensor, matrix: np.ndarray, shape: tuple[int, ...], padding: str = 'zeros'
) -> Tensor:
    """Interpolate a volume of values of either sign linearly on another grid.

    Parameters
    ----------
    volume, matrix, shape
        See :func:`sample`.
    padding : str
        What lies outside: ``zeros``, or ``border`` for the nearest value.

    Returns
    -------
    shape float32 tensor
    """
    box = tuple(slice(0, n) for n in shape)
    return _interpolated(volume, np.asarray(matrix, dtype=float), box, padding)


def inside(matrix: np.ndarray, shape: tuple[int, ...], of_shape: tuple[int, ...]) -> Tensor:
    """Return which voxels of a grid lie in the field of view of another one.

    Parameters
    ----------
    matrix, shape
        See :func:`sample`.
    of_shape : (3,) tuple of int
        Shape of the grid with the field of view.

    Returns
    -------
    shape bool tensor
    """
    seen = torch.ones(shape, dtype=torch.bool)
    box = tuple(slice(0, n) for n in shape)
    for place, n in zip(_rows(matrix, box), of_shape, strict=True):
        seen &= (place >= -0.5) & (place <= n - 0.5)
    return seen


def sample_at(volume: Tensor, places: Tensor) -> Tensor:
    """Interpolate a volume linearly anywhere.

    Parameters
    ----------
    volume : (x, y, z) float32 tensor
        Zero outside of its grid.
    places : (3, i, j, k) tensor
        Positions in voxels of the volume.

    Returns
    -------
    (i, j, k) float32 tensor
    """
    sizes = torch.tensor(volume.shape).view(3, 1, 1, 1)
    return _at(volume, ((2 * places + 1) / sizes - 1).unbind())


def _interpolated(volume: Tensor, matrix: np.ndarray, box: Box, padding: str = 'zeros') -> Tensor:
    """Interpolate at the voxels of a box; `matrix` maps their indices, from 0, to the volume's."""
    whole = tuple(slice(0, part.stop - part.start) for part in box)
    sizes = np.array(volume.shape)
    scaled = matrix[:3] * 2 / sizes[:, None]
    scaled[:, 3] = scaled[:, 3] + 1 / sizes - 1
    return _at(volume, [*_rows(scaled, whole)], padding)


def _at(volume: Tensor, places: Sequence[Tensor], padding: str = 'zeros') -> Tensor:
    """Interpolate at positions along x, y and z that go from -1 to 1 over all voxels."""
    where = torch.stack([*places[::-1]], -1)[None]
    return functional.grid_sample(
        volume[None, None], where, padding_mode=padding, align_corners=False
    )[0, 0]
