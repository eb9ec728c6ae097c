"""Bringing a scan to the network grid: RAS, and the spacing that the network was trained at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputImageError
from ..images.background import EMPTY_SHARE, constant_background, filled_box
from ..images.geometry import (
    Orientation,
    orientation,
    ras_affine,
    resample,
    resampled_grid,
    resampling_matrix,
    spacing_mm,
    to_ras,
)

#: Of intensities, what is clipped before the network sees them.
PERCENTILES = (0.5, 99.5)
#: Of intensities: their differences are still numbers in float32.
LARGEST = 1e38


@dataclass(frozen=True)
class Prepared:
    """A scan on the network grid, and the way back.

    Attributes
    ----------
    image : (x, y, z) float32 array
        In RAS at the network's spacing; intensities as in the scan.
    affine : (4, 4) float64 array
        Of the network grid.
    orient : Orientation
        Of the scan.
    scan_shape : (3,) tuple of int
        Of the scan in RAS.
    scan_affine : (4, 4) float64 array
        Of the scan in RAS.
    steps : (3,) float64 array
        Spacing of the scan in RAS divided by the network's.
    """

    image: np.ndarray
    affine: np.ndarray
    orient: Orientation
    scan_shape: tuple[int, ...]
    scan_affine: np.ndarray
    steps: np.ndarray


def prepare(data: np.ndarray, affine: np.ndarray, spacing: float) -> Prepared:
    """Bring a scan to RAS and to the network's spacing.

    Parameters
    ----------
    data : (i, j, k) array
    affine : (4, 4) array
    spacing : float
        Of the network grid, in mm.

    Returns
    -------
    Prepared
    """
    orient = orientation(affine)
    affine = ras_affine(affine, data.shape, orient)
    scan = np.ascontiguousarray(to_ras(data, orient), dtype=np.float32)
    steps = spacing_mm(affine) / spacing
    shape, network_affine = resampled_grid(scan.shape, affine, spacing)
    matrices = [
        resampling_matrix(n_in, n_out, 1 / step)
        for n_in, n_out, step in zip(scan.shape, shape, steps, strict=True)
    ]
    image = _resample(scan, matrices)
    return Prepared(image, network_affine, orient, scan.shape, affine, steps)


def _resample(scan: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Resample a scan; a constant background that fills most of it stays as it is."""
    background, box = constant_background(scan), filled_box(scan, 0)
    if background is None or scan[box].size > EMPTY_SHARE * scan.size:
        return resample(scan, matrices)
    # What sees anything but background, and all that this sees.
    rows = [_range(m[:, part].sum(1)) for m, part in zip(matrices, box, strict=True)]
    columns = [_range(m[part].sum(0)) for m, part in zip(matrices, rows, strict=True)]
    image = np.full([len(matrix) for matrix in matrices], background, dtype=np.float32)
    parts = [m[r, c] for m, r, c in zip(matrices, rows, columns, strict=True)]
    image[tuple(rows)] = resample(np.ascontiguousarray(scan[tuple(columns)]), parts)
    return image


def _range(weights: np.ndarray) -> slice:
    """Return the slice from the first to the last element that is not 0."""
    where = np.flatnonzero(weights)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)


def check_contrast(image: np.ndarray, ct: bool = False) -> None:
    """Refuse a scan of which nearly all voxels have one value: networks see a brain in nothing.

    Parameters
    ----------
    image : (x, y, z) array
    ct : bool
        Whether it was clipped to the range of the brain in CT scans.

    Raises
    ------
    InputImageError
    """
    for part in (image[::3, ::3, ::3], image):
        # Of existing values: between large ones there may be none.
        low, high = np.percentile(part, PERCENTILES, method='nearest')
        if high > low:
            return
    hint = ', between 0 and 80 HU; is it a CT scan in Hounsfield units' if ct else ''
    raise InputImageError(f'99 % of its voxels have the value {low:g}{hint}; look at the scan')


def rescale_intensities(image: np.ndarray) -> np.ndarray:
    """Clip to the 0.5th and 99.5th percentile, then stretch to [0, 1].

    Parameters
    ----------
    image : (x, y, z) float32 array

    Returns
    -------
    (x, y, z) float32 array
        Zeros where the percentiles coincide.
    """
    # Percentiles are interpolated from differences, which must not exceed the largest number.
    largest = max(float(image.max(initial=0)), -float(image.min(initial=0)))
    if largest > LARGEST:
        image = image * np.float32(LARGEST / largest)
    low, high = np.percentile(image, PERCENTILES).astype(np.float32)
    if not high > low:
        return np.zeros_like(image)
    return (np.clip(image, low, high) - low) / (high - low)
