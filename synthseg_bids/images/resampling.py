"""Resample and blur volumes: a matrix product along each axis, of the parts that are not zero.

Each row of these matrices has few weights, near the diagonal. Volumes are NumPy arrays or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .geometry import bounding_box

#: Rows of a matrix that are multiplied at once, with the columns that any of them has weights in.
ROWS = 32


def resample(volume: Any, matrices: Sequence[Any]) -> Any:
    """Resample the three axes of a volume.

    Parameters
    ----------
    volume : (x, y, z) array or tensor
    matrices : three (n_out, n_in) arrays or tensors
        One per axis, from :func:`resampling_matrix`, of the volume's type.

    Returns
    -------
    (x', y', z') array or tensor
        The volume itself, or a view of it, if no axis changes.
    """
    for axis, matrix in enumerate(matrices):
        if not _is_identity(matrix):
            volume = _multiply(matrix, volume, axis)
    return volume


def _multiply(matrix: Any, volume: Any, axis: int) -> Any:
    """Multiply an axis of a volume by a matrix."""
    shape = list(volume.shape)
    shape[axis] = len(matrix)
    if isinstance(volume, np.ndarray):
        product: Any = np.empty(shape, np.result_type(matrix, volume))
    else:
        product = volume.new_empty(shape)
    before = (slice(None),) * axis
    weights = np.asarray(matrix)
    for start in range(0, len(weights), ROWS):
        rows = slice(start, start + ROWS)
        hits = np.flatnonzero(weights[rows].any(axis=0))
        columns = slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0)
        factor, part = matrix[rows, columns], volume[(*before, columns)]
        if axis == 0:
            found = (factor @ part.reshape(len(part), -1)).reshape(-1, *shape[1:])
        else:
            found = factor @ part if axis == 1 else part @ factor.T
        product[(*before, rows)] = found
    return product


def _is_identity(matrix: Any) -> bool:
    weights = np.asarray(matrix)
    return np.array_equal(weights, np.eye(len(weights)))


def resample_box(
    volume: Any, box: Sequence[slice], matrices: Sequence[Any]
) -> tuple[tuple[slice, ...], Any]:
    """Resample only the output voxels that depend on a box in a volume.

    Parameters
    ----------
    volume, matrices
        See :func:`resample`.
    box : three slices

    Returns
    -------
    box : tuple of slice
        Smallest box around these output voxels; empty if there are none.
    part : array or tensor
        The values in it.
    """
    nothing = (slice(0, 0),) * 3
    rows: list[slice] = []
    columns: list[slice] = []
    parts = []
    for matrix, span in zip(matrices, box, strict=True):
        weights: Any = np.asarray(matrix)
        row = bounding_box(weights[:, span].any(axis=1))
        if row is None:  # narrower than the output's spacing, between two voxels
            return nothing, volume[nothing]
        column = bounding_box(weights[row].any(axis=0)) or (slice(0, 0),)
        rows += row
        columns += column
        parts.append(matrix[row + column])
    return tuple(rows), resample(volume[tuple(columns)], parts)
