"""What segmenting a scan gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .axes import TurnedScan
from .postprocess import Box
from .preprocess import Prepared


@dataclass(frozen=True)
class IsotropicMaps:
    """A segmentation on a grid of 1 mm over the scan's field of view, in RAS.

    Attributes
    ----------
    labels : (x, y, z) int16 array
    posteriors : (n_channels, x, y, z) uint8 array, or None
        Probabilities times 255.
    affine : (4, 4) float64 array
    """

    labels: np.ndarray
    posteriors: np.ndarray | None
    affine: np.ndarray


@dataclass(frozen=True)
class Segmentation:
    """One segmented scan.

    Attributes
    ----------
    labels : (x, y, z) int16 array
        FreeSurfer numbers on the scan's grid.
    volumes_mm3 : (n_channels,) float64 array
        Soft volumes in channel order, background included.
    posteriors : (n_channels, x, y, z) uint8 array, or None
        Probabilities times 255 on the scan's grid.
    grid_shape : (3,) tuple of int
        Part of the network grid that was segmented.
    device : str
        Where the network ran.
    seconds : float
        Wall-clock time, model loading not counted.
    confidence : (n_channels,) float32 array
        Mean posterior of each label over its voxels; NaN where it has none, and for background.
    flip_dice : (n_channels,) float32 array, or None
        Dice of the labels of the straight and the mirrored pass on the network grid; NaN for
        labels that neither has, None without the latter.
    peak_gpu_mb : float or None
        Most memory that was allocated on the GPU; None on the CPU.
    isotropic : IsotropicMaps or None
        The segmentation on a 1 mm grid, where asked for.
    fallback : str
        Why a GPU that has failed or was too small was not used as usual; empty if it was.
    ct : bool
        Whether the scan was clipped to the window of the brain in CT.
    unsure_mm3 : float
        Volume of the largest region of brain in which the network is unsure; see
        :func:`.confidence.unsure_mm3`.
    turned : TurnedScan or None
        Whether the network is surer of a turned copy; None if it is sure of the scan as it lies.
    """

    labels: np.ndarray
    volumes_mm3: np.ndarray
    posteriors: np.ndarray | None
    grid_shape: tuple[int, ...]
    device: str
    seconds: float
    confidence: np.ndarray
    flip_dice: np.ndarray | None = None
    peak_gpu_mb: float | None = None
    isotropic: IsotropicMaps | None = None
    fallback: str = ''
    ct: bool = False
    unsure_mm3: float = 0.0
    turned: TurnedScan | None = None


@dataclass(frozen=True)
class NetworkPosteriors:
    """Posteriors of a scan on the network grid, cleaned.

    Attributes
    ----------
    prepared : Prepared
    posteriors : (n_channels, x, y, z) float32 tensor
        Inside the brain's bounding box.
    box : tuple of slice
        Where on the network grid that is.
    seen : (3,) tuple of int
        Size of what the network saw.
    flip_dice : (n_channels,) float32 array, or None
    device : torch.device
        Where it ran.
    start : float
        When it began, by :func:`time.perf_counter`.
    fallback : str
        See :class:`Segmentation`.
    ct : bool
    confidence : (n_channels,) float32 array
    unsure_mm3 : float
    turned : TurnedScan or None
        See :class:`Segmentation`.
    """

    prepared: Prepared
    posteriors: Tensor
    box: Box
    seen: tuple[int, ...]
    flip_dice: np.ndarray | None
    device: torch.device
    start: float
    fallback: str
    ct: bool
    confidence: np.ndarray
    unsure_mm3: float
    turned: TurnedScan | None
