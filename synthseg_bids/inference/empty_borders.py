"""Cut empty borders off a scan before it is segmented, and add them to the results.

A head padded to a much larger volume then takes no longer than the head itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..images.background import small_filled_box
from ..images.geometry import spacing_mm

#: Content smaller than this, in mm, is widened to it if it can be: the network needs some
#: surroundings of the brain.
LEAST_MM = 224.0


@dataclass(frozen=True)
class EmptyBorders:
    """Where the content of a scan lies in it.

    Attributes
    ----------
    shape : (3,) tuple of int
        Shape of the scan.
    box : tuple of slice
        Its content.
    """

    shape: tuple[int, ...]
    box: tuple[slice, ...]

    @property
    def n_voxels(self) -> int:
        """Number of voxels outside of the box."""
        inside = [part.stop - part.start for part in self.box]
        return int(np.prod(self.shape) - np.prod(inside))

    def added_to(self, volumes: np.ndarray, first: int = 0) -> np.ndarray:
        """Return label maps or posteriors of the whole scan.

        Parameters
        ----------
        volumes : (..., x, y, z) array
            Label maps or posteriors of the content.
        first : int
            Value outside of it of the first of several volumes; all others are 0 there.

        Returns
        -------
        (..., x', y', z') array
            The array itself if nothing was cut off.
        """
        if not self.n_voxels:
            return volumes
        whole = np.zeros((*volumes.shape[:-3], *self.shape), dtype=volumes.dtype)
        if first:
            whole[0] = first
        x, y, z = self.box
        whole[..., x, y, z] = volumes
        return whole


def cut_empty_borders(
    data: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, EmptyBorders]:
    """Cut constant borders off a scan if they are most of it.

    Parameters
    ----------
    data : (x, y, z) array
    affine : (4, 4) array

    Returns
    -------
    data : (x', y', z') array
        A view.
    affine : (4, 4) array
        Its affine.
    borders : EmptyBorders
    """
    box = small_filled_box(data, 0)
    if box is None:
        return data, affine, EmptyBorders(data.shape, tuple(slice(0, n) for n in data.shape))
    least = np.ceil(LEAST_MM / spacing_mm(affine)).astype(int)
    box = tuple(_widen(*case) for case in zip(box, data.shape, least.tolist(), strict=True))
    moved = np.array(affine, dtype=float)
    moved[:3, 3] += moved[:3, :3] @ [part.start for part in box]
    return data[box], moved, EmptyBorders(data.shape, box)


def _widen(part: slice, size: int, least: int) -> slice:
    """Widen a slice of an axis to a least length, on both sides as far as the axis goes."""
    missing = max(min(least, size) - (part.stop - part.start), 0)
    start = min(max(part.start - missing // 2, 0), size - (part.stop - part.start) - missing)
    return slice(start, start + part.stop - part.start + missing)
