"""Voxel grids: orientation, spacing, and resampling between aligned grids.

A :class:`Grid` is a shape and an affine. The affine maps the integer index of a voxel to the
position of its centre in mm (RAS+: x to the right, y to the front, z up). A voxel extends half a
spacing around its centre; the *field of view* is the union of the voxels.

The network sees images whose axes run along R, A and S as closely as swapping and flipping axes
allows, at the spacing it was trained on. Both steps keep the field of view's centre where it is,
so that a grid and its resampled twin are related, axis by axis, by

    (index - (n - 1) / 2) * spacing = (index' - (n' - 1) / 2) * spacing'

Resampling is linear and separable: one matrix per axis, non-negative, with rows that sum to 1. The
same functions up- and downsample, on NumPy arrays and on torch tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """Swaps and flips that make an array's axes run along R, A and S.

    Attributes
    ----------
    axes : (3,) tuple of int
        Array axis that lies closest to x, y and z.
    flips : (3,) tuple of bool
        Whether that axis runs against x, y and z.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of voxels.

    Attributes
    ----------
    shape : (3,) tuple of int
    affine : (4, 4) array
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    def is_close(self, other: Grid) -> bool:
        """Return whether two grids are the same but for rounding."""
        return self.shape == other.shape and np.allclose(self.affine, other.affine)

    def in_ras(self) -> Grid:
        """Return the grid of an array that :func:`to_ras` has swapped and flipped.

        Examples
        --------
        >>> Grid((4, 3, 2), np.diag([-1, 1, 1, 1])).in_ras().affine[0].tolist()
        [1.0, 0.0, 0.0, -3.0]
        """
        orient = orientation(self.affine)
        to_array_index = np.zeros((4, 4))
        to_array_index[3, 3] = 1
        for i, (axis, flip) in enumerate(zip(orient.axes, orient.flips, strict=True)):
            to_array_index[axis, i] = -1 if flip else 1
            to_array_index[axis, 3] = self.shape[axis] - 1 if flip else 0
        shape = tuple(self.shape[axis] for axis in orient.axes)
        return Grid(shape, np.asarray(self.affine, dtype=float) @ to_array_index)

    def resampled(self, spacing: float) -> Grid:
        """Return the grid of another spacing with the same field of view.

        Parameters
        ----------
        spacing : float
            In mm, the same along all axes.

        Returns
        -------
        Grid
            With the same axis directions and the same centre; its shape is rounded up, so that
            the new field of view contains the old one.

        Examples
        --------
        >>> grid = Grid((4, 4, 3), np.diag([2.0, 1, 1, 1])).resampled(1.0)
        >>> grid.shape, grid.affine[:3, 3].tolist()
        ((8, 4, 3), [-0.5, 0.0, 0.0])
        """
        old = np.asarray(self.shape)
        steps = spacing / spacing_mm(self.affine)
        new = np.maximum(np.ceil(old / steps - 1e-3).astype(int), 1)
        to_old_index = np.diag([*steps, 1.0])
        to_old_index[:3, 3] = (old - 1) / 2 - steps * (new - 1) / 2
        return Grid(tuple(new.tolist()), np.asarray(self.affine, float) @ to_old_index)


def spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Return the distance between neighbouring voxel centres along each array axis.

    Parameters
    ----------
    affine : (4, 4) array

    Returns
    -------
    (3,) float array
        In mm.

    Examples
    --------
    >>> spacing_mm(np.diag([-2, 3, 4, 1])).tolist()
    [2.0, 3.0, 4.0]
    """
    return np.sqrt((np.asarray(affine, dtype=float)[:3, :3] ** 2).sum(axis=0))


def voxel_volume_mm3(affine: np.ndarray) -> float:
    """Return the volume of one voxel; on a sheared grid it is not the product of the spacings.

    Parameters
    ----------
    affine : (4, 4) array

    Returns
    -------
    float
        In mm^3.
    """
    # The triple product, unlike np.linalg.det, is exact for axis-aligned grids.
    first, second, third = np.asarray(affine, dtype=float)[:3, :3].T
    return float(abs(np.cross(first, second) @ third))


def largest_distance_mm(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance between two affines' positions of a volume's corners.

    Parameters
    ----------
    one, other : (4, 4) array
    shape : (3,) sequence of int

    Returns
    -------
    float

    Examples
    --------
    >>> largest_distance_mm(np.eye(4), np.diag([1, 1, 2, 1]), (9, 9, 4))
    3.0
    """
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))])
    apart = (np.asarray(one, dtype=float) - other) @ corners.T
    return float(np.sqrt((apart**2).sum(axis=0)).max())


def orientation(affine: np.ndarray) -> Orientation:
    """Find the axis swaps and flips that bring an array closest to RAS.

    It takes the pairing of array axes with x, y and z, among all six, that has the largest summed
    cosine; the affine keeps the remaining oblique rotation.

    Parameters
    ----------
    affine : (4, 4) array
        Must not be singular.

    Returns
    -------
    Orientation

    Examples
    --------
    >>> orientation(np.array([[0, 0, -1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    Orientation(axes=(2, 0, 1), flips=(True, False, False))
    """
    directions = np.asarray(affine, dtype=float)[:3, :3] / spacing_mm(affine)
    # Rounded, so that exact ties (45 degrees) do not depend on the last bit; max takes the first.
    axes = max(
        permutations(range(3)),
        key=lambda axes: round(sum(abs(directions[i, axis]) for i, axis in enumerate(axes)), 6),
    )
    return Orientation(axes, tuple(bool(directions[i, axis] < 0) for i, axis in enumerate(axes)))


def to_ras(array: np.ndarray, orient: Orientation) -> np.ndarray:
    """Swap and flip the last three axes of an array to RAS.

    Parameters
    ----------
    array : (..., i, j, k) array
    orient : Orientation
        Orientation of the array's grid.

    Returns
    -------
    (..., x, y, z) array
        A view.
    """
    first = array.ndim - 3
    swapped = array.transpose(*range(first), *(first + axis for axis in orient.axes))
    return swapped[_flip(orient)]


def from_ras(array: np.ndarray, orient: Orientation) -> np.ndarray:
    """Undo :func:`to_ras`.

    Parameters
    ----------
    array : (..., x, y, z) array
    orient : Orientation
        The one given to :func:`to_ras`.

    Returns
    -------
    (..., i, j, k) array
        A view.
    """
    first = array.ndim - 3
    flipped = array[_flip(orient)]
    return flipped.transpose(*range(first), *(first + int(a) for a in np.argsort(orient.axes)))


def _flip(orient: Orientation) -> tuple[Any, ...]:
    return (..., *(slice(None, None, -1 if flip else 1) for flip in orient.flips))


def resampling_matrix(n_in: int, n_out: int, step: float) -> np.ndarray:
    r"""Return the weights that resample one axis onto a grid with the same centre.

    Output voxel j lies at :math:`p_j = (n_{in} - 1) / 2 + (j - (n_{out} - 1) / 2) \cdot step`
    and, if the step exceeds one voxel, averages the linear interpolant of the input over a window
    of width :math:`w = \sqrt{step^2 - 1}`. The variances of box kernels add, so that this widens
    the input voxel (1) to the output voxel (step); it suppresses aliasing and, unlike
    averaging of whole voxels, reproduces linear ramps exactly. Up to a step of 1 it is plain
    linear interpolation. Beyond its ends the input continues with its edge value.

    Parameters
    ----------
    n_in, n_out : int
        Number of voxels along the axis.
    step : float
        Output spacing divided by input spacing.

    Returns
    -------
    (n_out, n_in) float32 array
        Non-negative; every row sums to 1.

    Examples
    --------
    >>> resampling_matrix(2, 4, 0.5).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    centre = (n_in - 1) / 2 + (np.arange(n_out) - (n_out - 1) / 2) * step
    centre = np.clip(centre, 0, n_in - 1)
    distance = centre[:, None] - np.arange(n_in)
    width = np.sqrt(max(step**2 - 1, 0))
    if width < 0.01:
        weights = np.clip(1 - abs(distance), 0, None)
    else:
        weights = _triangle_integral(distance + width / 2) - _triangle_integral(
            distance - width / 2
        )
        weights[weights < 1e-9] = 0
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _triangle_integral(x: np.ndarray) -> np.ndarray:
    """Integrate the triangle 1 - abs(t) from -1 to x."""
    x = np.clip(x, -1, 1)
    return 0.5 + x - np.sign(x) * x**2 / 2


def widen_box(box: Sequence[slice], margin: int, shape: Sequence[int]) -> tuple[slice, ...]:
    """Add a margin to all sides of a box, inside a volume of a shape.

    Examples
    --------
    >>> widen_box([slice(1, 3), slice(4, 6)], 2, (9, 7))
    (slice(0, 5, None), slice(2, 7, None))
    """
    return tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, n))
        for part, n in zip(box, shape, strict=True)
    )


def nested_box(inner: Sequence[slice], outer: Sequence[slice]) -> tuple[slice, ...]:
    """Return a box that is given within another one as indices of the whole volume.

    Examples
    --------
    >>> nested_box([slice(1, 3)], [slice(10, 20)])
    (slice(11, 13, None),)
    """
    return tuple(
        slice(o.start + i.start, o.start + i.stop) for i, o in zip(inner, outer, strict=True)
    )


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the slices of the smallest box around all non-zero voxels.

    Parameters
    ----------
    mask : (x, y, z) boolean array

    Returns
    -------
    tuple of slice, or None
        None if the mask is empty.

    Examples
    --------
    >>> bounding_box(np.array([[False, False], [False, True]]))
    (slice(1, 2, None), slice(1, 2, None))
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if len(hits) == 0:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)
