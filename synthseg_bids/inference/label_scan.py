"""Label a scan by posteriors on a fine grid: the end of every segmentation of several scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..images.geometry import Grid, from_ras, orientation, spacing_mm, voxel_volume_mm3
from .empty_borders import EmptyBorders
from .label_weights import label_weights
from .parcels import Parcellator, label_parcels
from .postprocess import Box, soft_volumes
from .resample_posteriors import resample_labels


@dataclass(frozen=True, eq=False)
class ScanLabels:
    """The segmentation of one of several scans.

    Attributes
    ----------
    labels : (i, j, k) int16 array
        FreeSurfer numbers on the scan's grid.
    volumes : (n_channels,) float64 array
        Soft volumes in mm^3, background first; NaN for unknown ones.
    parcels : (i, j, k) int16 array, or None
        The labels with parcels for cortex, if asked for.
    """

    labels: np.ndarray
    volumes: np.ndarray
    parcels: np.ndarray | None = None

    def with_borders(self, borders: EmptyBorders, voxel_mm3: float) -> ScanLabels:
        """Return the segmentation of the whole scan, of which this is the content.

        Parameters
        ----------
        borders : EmptyBorders
            From :func:`.empty_borders.cut_empty_borders`.
        voxel_mm3 : float
            Volume of a voxel of the scan.
        """
        volumes = self.volumes.copy()
        volumes[0] += borders.n_voxels * voxel_mm3
        parcels = None if self.parcels is None else borders.added_to(self.parcels)
        return ScanLabels(borders.added_to(self.labels), volumes, parcels)


def label_scan(
    posteriors: Tensor,
    box: Box,
    fine: Grid,
    grid: Grid,
    labels: Sequence[int],
    weights: Tensor | None = None,
    unknown: Sequence[int] = (),
    parcellator: Parcellator | None = None,
) -> ScanLabels:
    """Label a scan.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
        Inside the box; they sum to 1.
    box : tuple of slice
        Box around the brain in the grid of the posteriors.
    fine : Grid
        That grid: isotropic, in RAS, over the scan's field of view.
    grid : Grid
        Grid of the scan. It has the same centre as `fine`.
    labels : (n_channels,) sequence of int
        Label of each channel.
    weights : (n_channels,) tensor, optional
        Weights of the labels (default: computed; see :func:`.label_weights.label_weights`).
    unknown : sequence of int
        Channels whose volume is not known.
    parcellator : Parcellator, optional
        Names the parcels of the cortex.

    Returns
    -------
    ScanLabels
    """
    # Without the rounding errors of the affine.
    in_ras, spacing = grid.in_ras(), round(float(spacing_mm(fine.affine)[0]), 6)
    steps = spacing_mm(in_ras.affine) / spacing
    weights = label_weights(posteriors, labels) if weights is None else weights
    found, _ = resample_labels(
        posteriors, box, fine.shape, in_ras.shape, steps, tuple(labels), weights=weights
    )
    volumes = soft_volumes(
        posteriors, int(np.prod(fine.shape)), voxel_volume_mm3(fine.affine), unknown
    )
    parcels = None
    if parcellator is not None:
        logits = parcellator(posteriors, labels, spacing)
        voxel_mm3 = voxel_volume_mm3(in_ras.affine)
        named = label_parcels(logits, found, box, fine.shape, steps, voxel_mm3)
        parcels = _as_stored(named, grid)
    return ScanLabels(_as_stored(found, grid), volumes, parcels)


def _as_stored(found: np.ndarray, grid: Grid) -> np.ndarray:
    """Turn an array in RAS back to the axes of the scan."""
    return np.ascontiguousarray(from_ras(found, orientation(grid.affine)))
