"""Erode and dilate masks by voxels with a common face, as SciPy does, in a tenth of the time."""

from __future__ import annotations

import numpy as np

from .geometry import bounding_box, widen_box


def erode(mask: np.ndarray, beyond: bool = False) -> np.ndarray:
    """Leave out the voxels of a mask that have a neighbour outside of it.

    Parameters
    ----------
    mask : (x, y, z) bool array
    beyond : bool
        Whether what lies beyond the volume counts as inside.

    Returns
    -------
    (x, y, z) bool array
    """
    inner: np.ndarray = ~dilate(~mask)
    if not beyond:
        for axis in range(3):
            planes = np.moveaxis(inner, axis, 0)
            planes[:1] = planes[-1:] = False
    return inner


def dilate(mask: np.ndarray) -> np.ndarray:
    """Add the neighbours of the voxels of a mask.

    Parameters
    ----------
    mask : (x, y, z) bool array

    Returns
    -------
    (x, y, z) bool array
    """
    wider = mask.copy()
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(wider, axis, 0)
        after[1:] |= before[:-1]
        after[:-1] |= before[1:]
    return wider


def opened(mask: np.ndarray, times: int) -> np.ndarray:
    """Erode a mask some times, then dilate it as often.

    Parameters
    ----------
    mask : (x, y, z) bool array
    times : int

    Returns
    -------
    (x, y, z) bool array
    """
    found = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        part = mask[box]
        for _ in range(times):
            part = erode(part)
        for _ in range(times):
            part = dilate(part)
        found[box] = part
    return found


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask that have a neighbour outside of it, or the volume's border.

    Parameters
    ----------
    mask : (x, y, z) bool array

    Returns
    -------
    (x, y, z) bool array
    """
    found: np.ndarray = mask & ~erode(mask)
    return found


def interior(mask: np.ndarray, min_voxels: int, beyond: bool) -> np.ndarray:
    """Leave out the voxels of a mask that touch its outside, unless few remain.

    Parameters
    ----------
    mask : (x, y, z) boolean array
    min_voxels : int
        If fewer remain, the mask is returned as it is.
    beyond : bool
        Whether what lies beyond the volume counts as inside.
    """
    box = bounding_box(mask)
    if box is None:
        return mask
    box = widen_box(box, 1, mask.shape)
    part = erode(mask[box], beyond)
    if part.sum() < min_voxels:
        return mask
    inner = np.zeros_like(mask)
    inner[box] = part
    return inner
