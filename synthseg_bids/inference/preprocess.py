"""Resample a scan to the network grid (RAS, training spacing) and scale its intensities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputImageError
from ..images.background import (
    constant_background,
    filled_box,
    small_filled_box,
    without_far_background,
)
from ..images.ct import CT_RANGE, is_hounsfield
from ..images.geometry import Grid, Orientation, orientation, resampling_matrix, spacing_mm, to_ras
from ..images.resampling import resample, resample_box

logger = logging.getLogger(__name__)

#: Intensities are clipped to these percentiles.
PERCENTILES = (0.5, 99.5)
#: Margin in voxels that is kept when empty borders are cropped.
EMPTY_MARGIN = 8
#: Largest intensity whose differences do not overflow float32.
LARGEST = 1e38


@dataclass(frozen=True)
class Prepared:
    """A scan on the network grid, and the geometry of the scan itself.

    Attributes
    ----------
    image : (x, y, z) float32 array
        In RAS at the network's spacing; intensities as in the scan.
    grid : Grid
        The network grid.
    orient : Orientation
        Orientation of the scan.
    scan_grid : Grid
        Grid of the scan in RAS.
    steps : (3,) float64 array
        Spacing of the scan in RAS divided by the network's.
    """

    image: np.ndarray
    grid: Grid
    orient: Orientation
    scan_grid: Grid
    steps: np.ndarray


def prepare_scan(
    data: np.ndarray, affine: np.ndarray, spacing: float, ct: bool | None = None
) -> tuple[Prepared, bool]:
    """Check a scan, clip Hounsfield units, and resample to RAS at the network's spacing.

    Parameters
    ----------
    data : (i, j, k) array
    affine : (4, 4) array
    spacing : float
        Voxel size of the network grid, in mm.
    ct : bool, optional
        Whether it is a CT scan (default: detected by its intensities).

    Returns
    -------
    prepared : Prepared
    ct : bool

    Raises
    ------
    InputImageError
        If nearly all voxels have one value.
    """
    if ct is None:
        ct = is_hounsfield(data)
        if ct:
            logger.info('its intensities are Hounsfield units: segmented as CT, 0 to 80 HU')
    data, filled = without_far_background(data)
    if filled is not None:
        logger.info('its background is %g throughout; it takes no part in the scaling', filled)
    if ct:
        data = np.clip(data, *CT_RANGE)
    check_contrast(data[filled_box(data, EMPTY_MARGIN)], ct)
    return prepare(data, affine, spacing), ct


def prepare(data: np.ndarray, affine: np.ndarray, spacing: float) -> Prepared:
    """Resample a scan to RAS at the network's spacing.

    Parameters
    ----------
    data : (i, j, k) array
    affine : (4, 4) array
    spacing : float
        Voxel size of the network grid, in mm.

    Returns
    -------
    Prepared
    """
    orient = orientation(affine)
    scan_grid = Grid(data.shape, affine).in_ras()
    scan = np.ascontiguousarray(to_ras(data, orient), dtype=np.float32)
    steps = spacing_mm(scan_grid.affine) / spacing
    grid = scan_grid.resampled(spacing)
    matrices = [
        resampling_matrix(n_in, n_out, 1 / step)
        for n_in, n_out, step in zip(scan.shape, grid.shape, steps, strict=True)
    ]
    return Prepared(_resample(scan, matrices), grid, orient, scan_grid, steps)


def _resample(scan: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Resample a scan; a constant background that fills most of it is not interpolated."""
    box = small_filled_box(scan, 0)
    if box is None:
        return resample(scan, matrices)
    shape = [len(matrix) for matrix in matrices]
    image = np.full(shape, constant_background(scan), dtype=np.float32)
    reached, part = resample_box(scan, box, matrices)
    image[reached] = part
    return image


def check_contrast(image: np.ndarray, ct: bool = False) -> None:
    """Refuse a scan nearly all of whose voxels have one value: networks would find a brain in it.

    Parameters
    ----------
    image : (x, y, z) array
    ct : bool
        Whether it was clipped to the brain window of CT.

    Raises
    ------
    InputImageError
    """
    for part in (image[::3, ::3, ::3], image):
        # No interpolation, which loses precision between very large values.
        low, high = np.percentile(part, PERCENTILES, method='nearest')
        if high > low:
            return
    hint = ', between 0 and 80 HU; is it a CT scan in Hounsfield units' if ct else ''
    raise InputImageError(f'99 % of its voxels have the value {low:g}{hint}; look at the scan')


def rescale_intensities(image: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Clip to the 0.5th and 99.5th percentile, then rescale to [0, 1].

    Parameters
    ----------
    image : (x, y, z) float32 array
    like : float32 array, optional
        The intensities whose percentiles are taken; those of the image by default.

    Returns
    -------
    (x, y, z) float32 array
        Zeros if the percentiles are equal.
    """
    # Percentiles are interpolated from differences, which must not overflow.
    like = image if like is None else like
    ends = [end for part in (image, like) for end in (part.max(initial=0), -part.min(initial=0))]
    largest = float(max(ends))
    if largest > LARGEST:
        image, like = (part * np.float32(LARGEST / largest) for part in (image, like))
    low, high = np.percentile(like, PERCENTILES).astype(np.float32)
    if not high > low:
        return np.zeros_like(image)
    return (np.clip(image, low, high) - low) / (high - low)
