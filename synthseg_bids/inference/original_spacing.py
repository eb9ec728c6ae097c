"""Find how coarse a scan originally was, and how much its interpolated voxels still count.

A file may hold a scan that was upsampled before, so that its header does not tell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Second differences count as zero below this share of the mean first difference. A scan was
#: interpolated if the share of such voxels exceeds that of zero first differences by this much:
#: 0 to 0.1 in original scans, a third or more in interpolated ones.
FLATNESS_TOLERANCE = 0.1
LEAST_STRAIGHT = 0.2


def independence(steps: np.ndarray) -> float:
    """Return the factor on the exponent of the likelihood that accounts for interpolated voxels.

    Voxels interpolated from a coarser scan are not independent. The square root of the ratio of
    acquired to interpolated voxels was best on synthetic scans with slices of 5 mm.

    Parameters
    ----------
    steps : (3,) array
        Spacing of the original voxels divided by that of the grid.

    Returns
    -------
    float
        1 if the scan is as fine as the grid, less if it is coarser.
    """
    return float(np.prod(np.maximum(steps, 1)) ** -0.5)


def own_steps(steps: np.ndarray, image: np.ndarray, brain: Tensor) -> np.ndarray:
    """Return the spacing of a scan's original voxels, even if it was upsampled before.

    Parameters
    ----------
    steps : (3,) array
        Spacing of the voxels in the file divided by that of the grid.
    image : (x, y, z) array
        The scan on the grid.
    brain : (x, y, z) bool tensor
        See :func:`interpolated_steps`.

    Returns
    -------
    (3,) array
        Divided by the spacing of the grid.
    """
    # After two interpolations the coarser spacing shows.
    return np.maximum(steps, interpolated_steps(torch.from_numpy(image), brain))


def interpolated_steps(image: Tensor, brain: Tensor) -> np.ndarray:
    """Detect linear upsampling by the piecewise-linear profiles that it leaves.

    Second differences vanish everywhere except at the original samples.

    Parameters
    ----------
    image : (x, y, z) tensor
    brain : (x, y, z) bool tensor
        Voxels to look at; air has linear profiles in any scan.

    Returns
    -------
    (3,) array
        Distance of the original samples in voxels, per axis; 1 if there was no interpolation, if
        it was not linear, or if it was by less than a factor of two.
    """
    steps = np.ones(3)
    for axis in range(3):
        slopes = image.diff(dim=axis)
        known = _neighbours(brain, axis)
        if not known.any():
            continue
        # Larger than the rounding errors of a straight line of integers.
        least = FLATNESS_TOLERANCE * float((slopes.abs() * known).sum()) / _count(known)
        known = _neighbours(known, axis)
        straight = (slopes.diff(dim=axis).abs() < least) & known
        # Noise, or few grey values, give as many zero first differences.
        flat = (slopes.narrow(axis, 1, known.shape[axis]).abs() < least) & known
        if _count(straight) - _count(flat) > LEAST_STRAIGHT * _count(known):
            ends = straight.narrow(axis, 1, known.shape[axis] - 1)
            samples = straight.narrow(axis, 0, known.shape[axis] - 1) & ~ends
            pairs = _neighbours(known, axis)
            steps[axis] = _count(pairs) / max(_count(samples & pairs), 1)
    return steps


def _neighbours(mask: Tensor, axis: int) -> Tensor:
    """Return which voxels are in a mask together with the next one along an axis."""
    n = max(mask.shape[axis] - 1, 0)
    return mask.narrow(axis, 0, n) & mask.narrow(axis, mask.shape[axis] - n, n)


def _count(mask: Tensor) -> int:
    return int(np.count_nonzero(mask.numpy()))
