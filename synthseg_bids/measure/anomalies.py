"""Detect large anomalies: masses, cavities and cysts.

Networks that have only seen whole brains give every voxel the label of something that they know.
Two things betray them: a region whose intensity is far from that of the structure that it is said
to be, and a body of fluid around the brain that is thicker than any cistern or sulcus.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..images.geometry import bounding_box, spacing_mm, widen_box
from ..images.morphology import interior
from ..labels import CSF, SUBCORTICAL_GREY, labels_of_tissue
from .stats import median_and_deviation

#: Spacing in mm of the grid on which regions are searched, unless the scan is coarser.
GRID_MM = 1.5
#: Robust standard deviations from the median of its tissue beyond which a voxel is an outlier, and
#: width of a region's narrowest part in mm: borders hold partial volumes, and are thinner.
MAX_DEVIATIONS, MIN_WIDTH_MM = 4.0, 4.0
#: Least standard deviation of a tissue, as a part of the intensity of white matter.
MIN_DEVIATION = 0.05
#: Standard deviations of the Gaussian filter within which it has weights.
TRUNCATE = 4.0
#: Radius in mm of a ball that does not fit into sulci and cisterns.
POCKET_RADIUS_MM = 8.0
#: Labels with a common intensity in every contrast.
TISSUES: tuple[tuple[int, ...], ...] = (
    (2, 41, 77),
    (3, 42),
    labels_of_tissue(SUBCORTICAL_GREY),
    (4, 5, 14, 15, 43, 44),
    (7, 46),
    (8, 47),
    (16,),
)
WHITE_MATTER = TISSUES[0]
#: Least number of voxels of a tissue whose distribution is estimated.
MIN_VOXELS = 50
#: Rounds of reweighting, and residual in standard deviations with half of the weight.
N_ROUNDS, HALF_WEIGHT = 8, 2.0


def measure_anomalies(
    data: np.ndarray, labels: np.ndarray, affine: np.ndarray
) -> dict[str, float | None]:
    """Measure the largest region of outlying intensity, and the largest pocket of fluid.

    Parameters
    ----------
    data : (x, y, z) array
        The scan.
    labels : (x, y, z) integer array
        Its segmentation labels.
    affine : (4, 4) array

    Returns
    -------
    dict
        ``odd_intensity_ml`` and ``fluid_pocket_ml``; None for the former without white matter.
    """
    data, labels, spacing = _coarsen(data, labels, spacing_mm(affine))
    voxel_ml = float(np.prod(spacing)) / 1000
    odd = _odd_voxels(data, labels, spacing)
    return {
        'odd_intensity_ml': None if odd is None else _largest(odd) * voxel_ml,
        'fluid_pocket_ml': _largest(_opened(labels == CSF, POCKET_RADIUS_MM, spacing)) * voxel_ml,
    }


def _coarsen(
    data: np.ndarray, labels: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth a scan and take every n-th voxel of it and of its labels, around the labels alone."""
    steps = np.maximum(np.rint(GRID_MM / spacing).astype(int), 1)
    sigmas = np.where(steps > 1, steps / 2, 0.35 * GRID_MM / spacing)
    # Wider than the filter's reach, and of whole steps.
    margin = np.ceil(TRUNCATE * sigmas).astype(int) + 1
    box = tuple(
        slice(max(part.start - more, 0) // step * step, part.stop + more)
        for part, more, step in zip(bounding_box(labels != 0) or (), margin, steps, strict=False)
    )
    smooth = ndimage.gaussian_filter(data[box], sigmas, output=np.float32, truncate=TRUNCATE)
    every = tuple(slice(step // 2, None, step) for step in steps)
    return smooth[every], labels[box][every], spacing * steps


def _odd_voxels(data: np.ndarray, labels: np.ndarray, spacing: np.ndarray) -> np.ndarray | None:
    """Mark voxels whose intensity is far from that of their tissue; None without white matter."""
    white = np.isin(labels, WHITE_MATTER)
    if white.sum() < MIN_VOXELS:
        return None
    data = data / _bias(data, white, labels > 0)
    white_median, _ = median_and_deviation(data[interior(white, MIN_VOXELS, beyond=False)])
    odd = np.zeros(labels.shape, bool)
    for tissue in TISSUES:
        mask = np.isin(labels, tissue)
        if mask.sum() < MIN_VOXELS:
            continue
        median, deviation = median_and_deviation(data[interior(mask, MIN_VOXELS, beyond=False)])
        deviation = max(deviation, MIN_DEVIATION * abs(white_median))
        odd[mask] = abs(data[mask] - median) > MAX_DEVIATIONS * deviation
    # At least two voxels wide, too: slices mix tissues.
    return _opened(odd, max(MIN_WIDTH_MM / 2, float(spacing.max())), spacing)


def _bias(data: np.ndarray, white: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Fit a quadratic polynomial to white matter, robustly; 1 outside of the brain.

    Returns
    -------
    (x, y, z) array
        The field divided by its median, within a factor of 3 of 1.
    """
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in data.shape]
    x, y, z = np.meshgrid(*axes, indexing='ij', sparse=True)
    terms = (x * 0 + 1, x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    inside = interior(white, MIN_VOXELS, beyond=False)
    design = np.stack([np.broadcast_to(term, data.shape)[inside] for term in terms], 1)
    target = data[inside].astype(np.float64)
    weights = np.ones(len(target))
    for _ in range(N_ROUNDS):
        factors = np.linalg.lstsq(design * weights[:, None], target * weights, rcond=None)[0]
        residuals = target - design @ factors
        scale = HALF_WEIGHT * median_and_deviation(residuals)[1] + 1e-9
        weights = 1 / (1 + (residuals / scale) ** 2)
    middle = float(np.median(design @ factors))
    if middle <= 0:
        return np.ones_like(data)
    field = sum(factor * term for factor, term in zip(factors, terms, strict=True)) / middle
    return np.where(brain, np.clip(field, 1 / 3, 3), 1)


def _opened(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Open a mask with a ball of some radius."""
    box = bounding_box(mask)
    if box is None:
        return mask
    box = widen_box(box, 1, mask.shape)
    opened = np.zeros_like(mask)
    centres = ndimage.distance_transform_edt(mask[box], spacing) > radius_mm
    if centres.any():
        opened[box] = ndimage.distance_transform_edt(~centres, spacing) <= radius_mm
    return opened


def _largest(mask: np.ndarray) -> int:
    """Count the voxels of the largest connected component."""
    components, n = ndimage.label(mask)
    return int(np.bincount(components.ravel())[1:].max()) if n else 0
