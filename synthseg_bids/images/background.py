"""Detect a constant background or padding, of any value.

Skull stripping, defacing, rotation and padding fill the outside with one value: mostly 0, but also
-1024, -1, the smallest number of the data type, or NaN. It is no intensity of the scan and must
not stretch its range.
"""

from __future__ import annotations

import numpy as np

from .geometry import bounding_box, widen_box

#: Least share of the border's voxels with exactly the background's value, if the whole outside is
#: constant, and if only the corners of the field of view are (outside of a circle is 21 % of its
#: square, and often none of two of the three pairs of faces).
MIN_SHARE, MIN_SHARE_OF_PADDING = 0.3, 0.02
#: The value must lie outside of these percentiles of all other voxels; that of corners by this
#: fraction of the distance between them.
PERCENTILES, MIN_GAP = (0.5, 99.5), 0.1

#: Constant borders are skipped if the rest is less than this share of the scan.
EMPTY_SHARE = 0.25


def constant_background(data: np.ndarray) -> float | None:
    """Return the value of a constant background; None if there is none.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.

    Returns
    -------
    float or None
        The most frequent value on the faces of the volume, if frequent enough.

    Examples
    --------
    >>> scan = np.full((8, 8, 8), -1024.0)
    >>> scan[2:6, 2:6, 2:6] = 100 + np.arange(64).reshape(4, 4, 4)
    >>> constant_background(scan)
    -1024.0
    """
    value, share = _most_frequent_at_border(data)
    return value if share >= MIN_SHARE else None


def _most_frequent_at_border(data: np.ndarray) -> tuple[float, float]:
    """Return the most frequent value on the faces of a volume, and its share of their voxels."""
    faces = [data.take(index, axis).ravel() for axis in range(3) for index in (0, -1)]
    border = np.concatenate(faces)
    values, counts = np.unique(border, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]), float(counts[most]) / border.size


def far_background(data: np.ndarray) -> float | None:
    """Return the value of a constant background or padding outside of the scan's range.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.

    Returns
    -------
    float or None
        None if there is none, or if it is the usual 0 of a scan without negative values.
    """
    value, share = _most_frequent_at_border(data)
    if share < MIN_SHARE_OF_PADDING:
        return None
    others = data[data != value]
    if not others.size or (value == 0 and others.min() >= 0):
        return None
    low, high = np.percentile(others[:: max(1, others.size // 1_000_000)], PERCENTILES)
    gap = 0 if share >= MIN_SHARE else MIN_GAP * (high - low)
    return None if low - gap <= value <= high + gap else value


def without_far_background(data: np.ndarray) -> tuple[np.ndarray, float | None]:
    """Replace a constant background outside of the scan's range by a usual one.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.

    Returns
    -------
    data : (x, y, z) array
        The background is 0, or the smallest of the other values if that is negative.
    value : float or None
        Former value of the background; None if nothing was changed.
    """
    value = far_background(data)
    if value is None:
        return data, None
    background = data == value
    lowest = data[~background].min()
    return np.where(background, min(lowest, data.dtype.type(0)), data), value


def filled_box(data: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Return the bounding box of the voxels that are not constant background.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.
    margin : int
        Added to all sides, in voxels.

    Returns
    -------
    tuple of slice
        The whole volume if the background is not constant.
    """
    value = constant_background(data)
    box = None if value is None else bounding_box(data != value)
    if box is None:
        return tuple(slice(0, n) for n in data.shape)
    return widen_box(box, margin, data.shape)


def small_filled_box(data: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    """Return :func:`filled_box` if it leaves out most of the volume; else None.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.
    margin : int
        Added to all sides, in voxels.
    """
    box = filled_box(data, margin)
    return box if data[box].size <= EMPTY_SHARE * data.size else None
