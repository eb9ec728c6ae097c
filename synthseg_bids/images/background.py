"""The constant value that surrounds a brain or a field of view, whatever it is.

Skull stripping, defacing, rotation and padding fill what is outside with one value: mostly 0, but
-1024 in some tools, -1, the smallest number there is, or not a number. It says nothing about the
scan and must not stretch its range of intensities.
"""

from __future__ import annotations

import numpy as np

#: Share of the border's voxels that has the background's value exactly, where all of the outside
#: is constant, and where only the corners of the field of view are (a circle leaves 21 % of its
#: square, of two of three pairs of faces often nothing).
MIN_SHARE, MIN_SHARE_OF_PADDING = 0.3, 0.02
#: Percentiles of all other voxels that it lies outside of, padding of corners by this part of
#: their distance.
PERCENTILES, MIN_GAP = (0.5, 99.5), 0.1

#: Empty borders are left out where what is left is less than this share of the scan.
EMPTY_SHARE = 0.25


def constant_background(data: np.ndarray, min_share: float = MIN_SHARE) -> float | None:
    """Return the value of a constant background; None if there is none.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.
    min_share : float
        Share of the voxels on the faces of the volume that must have it exactly.

    Returns
    -------
    float or None
        The most frequent value on the faces of the volume, if many voxels there have it exactly.

    Examples
    --------
    >>> scan = np.full((8, 8, 8), -1024.0)
    >>> scan[2:6, 2:6, 2:6] = 100 + np.arange(64).reshape(4, 4, 4)
    >>> constant_background(scan)
    -1024.0
    """
    faces = [data.take(index, axis).ravel() for axis in range(3) for index in (0, -1)]
    border = np.concatenate(faces)
    values, counts = np.unique(border, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] >= min_share * border.size else None


def far_background(data: np.ndarray) -> float | None:
    """Return the value of a constant background, or padding, outside of the range of the scan.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.

    Returns
    -------
    float or None
        None if there is none, or if it is the 0 below values that are not negative, as usual.
    """
    value = constant_background(data, MIN_SHARE_OF_PADDING)
    if value is None:
        return None
    others = data[data != value]
    if not others.size or (value == 0 and others.min() >= 0):
        return None
    low, high = np.percentile(others[:: max(1, others.size // 1_000_000)], PERCENTILES)
    everywhere = constant_background(data) is not None
    gap = 0 if everywhere else MIN_GAP * (high - low)
    return None if low - gap <= value <= high + gap else value


def without_far_background(data: np.ndarray) -> tuple[np.ndarray, float | None]:
    """Give a background outside of the range of a scan the value that one usually has.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.

    Returns
    -------
    data : (x, y, z) array
        Where the background was there is 0, or the smallest of the other values if that is
        negative.
    value : float or None
        What the background was; None if nothing was changed.
    """
    value = far_background(data)
    if value is None:
        return data, None
    background = data == value
    lowest = data[~background].min()
    return np.where(background, min(lowest, data.dtype.type(0)), data), value


def filled_box(data: np.ndarray, margin: int) -> tuple[slice, slice, slice]:
    """Return the box of all that is not a constant background, and a margin around it.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.
    margin : int
        In voxels.

    Returns
    -------
    tuple of slice
        The whole volume where the background is not constant.
    """
    value = constant_background(data)
    whole = tuple(slice(0, n) for n in data.shape)
    if value is None:
        return whole[0], whole[1], whole[2]
    other = data != value
    box = []
    for axis, n in enumerate(data.shape):
        there = np.flatnonzero(other.any(axis=tuple(a for a in range(3) if a != axis)))
        if not there.size:
            return whole[0], whole[1], whole[2]
        box.append(slice(max(int(there[0]) - margin, 0), min(int(there[-1]) + 1 + margin, n)))
    return box[0], box[1], box[2]
