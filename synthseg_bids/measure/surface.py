"""Distances between the surfaces of two segmentations of one structure.

Volumes and overlaps do not see where two segmentations differ; distances of their surfaces do.
The surface of a structure is its voxels with a neighbour across a face outside of it, and
distances are between the centres of voxels, in mm (Maier-Hein et al., Metrics reloaded, Nature
Methods 21:195, 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..images.morphology import surface


class SurfaceDistances(NamedTuple):
    """Distances between two surfaces, in mm; NaN where a structure is absent from either.

    Attributes
    ----------
    hd95 : float
        95 % Hausdorff distance: the larger of the 95th percentiles of both directions.
    mean : float
        Average symmetric surface distance: the mean over the voxels of both surfaces.
    """

    hd95: float
    mean: float


ABSENT = SurfaceDistances(float('nan'), float('nan'))


def surface_distances(
    first: np.ndarray, second: np.ndarray, spacing_mm: np.ndarray | tuple[float, ...]
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Parameters
    ----------
    first, second : (x, y, z) bool array
    spacing_mm : (3,) sequence of float
        Of their grid, whose axes are at right angles.

    Returns
    -------
    SurfaceDistances

    Examples
    --------
    >>> cube = np.zeros((9, 9, 9), bool)
    >>> cube[2:5, 2:5, 2:5] = True
    >>> surface_distances(cube, cube, (1, 1, 1))
    SurfaceDistances(hd95=0.0, mean=0.0)
    """
    if not first.any() or not second.any():
        return ABSENT
    # One more voxel around both, so that a structure at the box's border has a surface there.
    places = np.argwhere(first | second)
    box = tuple(
        slice(low, high + 1) for low, high in zip(places.min(0), places.max(0), strict=True)
    )
    one, other = (surface(np.pad(mask[box], 1)) for mask in (first, second))
    to_other, to_one = (
        ndimage.distance_transform_edt(~mask, sampling=spacing_mm)[of]
        for mask, of in ((other, one), (one, other))
    )
    both = np.concatenate([to_other, to_one])
    hd95 = max(float(np.percentile(to_other, 95)), float(np.percentile(to_one, 95)))
    return SurfaceDistances(hd95, float(both.mean()))
