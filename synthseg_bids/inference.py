"""From a scan to its segmentation: prepare, forward, clean, back to the scan's own grid.

The network works on a RAS grid at its training spacing, the *network grid*. Where its model card
says that it was trained on crops, a first pass over the whole scan finds the brain, a second one
over the crop around it corrects its place, and the last one sees it in the field of view of
training.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .device import fast_dtype, resolve_device, set_threads
from .geometry import (
    Orientation,
    from_ras,
    orientation,
    ras_affine,
    resample,
    resampled_grid,
    resampling_matrix,
    spacing_mm,
    to_ras,
    voxel_volume_mm3,
)
from .labels import CSF, mirror_channels, segmentation_labels
from .postprocess import Box, clean, crop_box, find_brain, resample_labels, soft_volumes
from .weights import DEFAULT_MODEL, ModelCard, load_model

logger = logging.getLogger(__name__)

#: How often the brain is looked for: in the whole scan, then in the crop around what was found,
#: which the network knows better.
LOCALISATIONS = 2


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
    """

    labels: np.ndarray
    volumes_mm3: np.ndarray
    posteriors: np.ndarray | None
    grid_shape: tuple[int, ...]
    device: str
    seconds: float


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
    steps : (3,) float64 array
        Spacing of the scan in RAS divided by the network's.
    """

    image: np.ndarray
    affine: np.ndarray
    orient: Orientation
    scan_shape: tuple[int, ...]
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
    return Prepared(resample(scan, matrices), network_affine, orient, scan.shape, steps)


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
    low, high = np.percentile(image, (0.5, 99.5)).astype(np.float32)
    if not high > low:
        return np.zeros_like(image)
    return (np.clip(image, low, high) - low) / (high - low)


@torch.inference_mode()
def forward(
    network: torch.nn.Module,
    image: np.ndarray,
    multiple: int,
    device: torch.device,
    mirror: np.ndarray | None = None,
) -> Tensor:
    """Compute the posteriors of an image.

    Parameters
    ----------
    network : module
        From (1, 1, x, y, z) intensities to (1, n_channels, x, y, z) logits.
    image : (x, y, z) float32 array
        On the network grid; rescaled to [0, 1] here, then padded with 0.
    multiple : int
        Every side that the network sees is a multiple of this.
    device : torch.device
    mirror : (n_channels,) integer array, optional
        Channel permutation of a left/right flip; if given, the posteriors are averaged with those
        of the flipped image.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        On the CPU.
    """
    # Two of them at least: a single voxel at the deepest level has no variance to normalise by.
    padded = [max(-(-n // multiple), 2) * multiple for n in image.shape]
    inside = tuple(
        slice((p - n) // 2, (p - n) // 2 + n) for p, n in zip(padded, image.shape, strict=True)
    )
    x = torch.zeros((1, 1, *padded))
    x[0, 0][inside] = torch.from_numpy(rescale_intensities(image))
    x = x.to(device=device, memory_format=torch.channels_last_3d)
    posteriors = _softmax(network, x)
    if mirror is not None:
        flipped = _softmax(network, x.flip(2))
        for channel, twin in enumerate(mirror):
            posteriors[channel].add_(flipped[int(twin)].flip(0)).mul_(0.5)
    return posteriors[(slice(None), *inside)].cpu().contiguous()


def _softmax(network: torch.nn.Module, x: Tensor) -> Tensor:
    """Return (n_channels, x, y, z) float32 posteriors, contiguous by channel."""
    dtype = fast_dtype(x.device)
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = network(x)[0]
    # Not functional.softmax: in place, this array being the largest of all.
    logits = logits.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    logits.sub_(logits.amax(0)).exp_()
    return logits.div_(logits.sum(0))


class Segmenter:
    """A network, loaded once, that segments scans of any contrast and resolution.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model, or a ``.safetensors`` file.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    flip : bool
        Average with the segmentation of the mirrored scan: better, twice the time.
    threads : int, optional
        CPU threads (default: as the process is set up).

    Raises
    ------
    ModelFileError, DeviceError
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        device: str = 'auto',
        flip: bool = True,
        threads: int | None = None,
    ) -> None:
        set_threads(threads)
        self.device = resolve_device(device)
        self._use(*load_model(model, self.device), flip)

    @classmethod
    def from_network(
        cls, network: torch.nn.Module, card: ModelCard, device: str = 'cpu', flip: bool = True
    ) -> Segmenter:
        """Wrap a network that is in memory, such as one in training (it is left in eval mode)."""
        segmenter = cls.__new__(cls)
        segmenter.device = resolve_device(device)
        segmenter._use(network.to(segmenter.device).eval(), card, flip)
        return segmenter

    def _use(self, network: torch.nn.Module, card: ModelCard, flip: bool) -> None:
        self.network = network
        self.card = card
        self._mirror = mirror_channels(card.labels) if flip else None
        group_of = {label.index: label.topology_group for label in segmentation_labels()}
        self._groups = tuple(group_of[label] for label in card.labels)
        self._fluid = card.labels.index(CSF) if CSF in card.labels else None

    def segment(
        self, data: np.ndarray, affine: np.ndarray, posteriors: bool = False
    ) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        data : (x, y, z) array
            Finite, not constant; any contrast, orientation and spacing.
        affine : (4, 4) array
            From voxel indices to mm (RAS+).
        posteriors : bool
            Whether to return the posteriors on the scan's grid (33 bytes per voxel).

        Returns
        -------
        Segmentation
        """
        start = time.perf_counter()
        prepared = prepare(data, affine, self.card.spacing_mm)
        region, found, device = self._infer_where_it_fits(prepared.image)
        seen = tuple(found.shape[1:])
        found, inner = clean(found, self._groups)
        if inner is None:
            logger.warning('no brain found in the scan: everything is background')
            inner = (slice(0, 0),) * 3
        box = tuple(
            slice(r.start + i.start, r.start + i.stop) for r, i in zip(region, inner, strict=True)
        )
        labels, kept = resample_labels(
            found,
            box,
            prepared.image.shape,
            prepared.scan_shape,
            prepared.steps,
            self.card.labels,
            posteriors,
        )
        return Segmentation(
            labels=np.ascontiguousarray(from_ras(labels, prepared.orient)),
            volumes_mm3=soft_volumes(
                found, prepared.image.size, voxel_volume_mm3(prepared.affine)
            ),
            posteriors=None if kept is None else from_ras(kept, prepared.orient),
            grid_shape=seen,
            device=str(device),
            seconds=time.perf_counter() - start,
        )

    def _infer(self, image: np.ndarray, device: torch.device) -> tuple[Box, Tensor]:
        """Return the part of the network grid that was segmented, and its posteriors."""
        multiple = self.card.network.size_multiple
        region: Box = tuple(slice(0, n) for n in image.shape)
        for _ in range(LOCALISATIONS if self.card.crop_mm else 0):
            closer = self._closer(image, region, device)
            if closer == region:
                break
            region = closer
        return region, forward(self.network, image[region], multiple, device, self._mirror)

    def _closer(self, image: np.ndarray, region: Box, device: torch.device) -> Box:
        """Return the crop around the brain that the network sees in a region of the image."""
        assert self.card.crop_mm is not None
        multiple = self.card.network.size_multiple
        grid = (image.shape, self.card.crop_mm, self.card.spacing_mm, multiple)
        # A crop around nothing is the smallest; if that is the whole region, spare the pass.
        smallest = crop_box(tuple(slice(n // 2, n // 2) for n in image.shape), *grid)
        if all(s == slice(0, n) for s, n in zip(smallest, image.shape, strict=True)):
            return region
        posteriors = forward(self.network, image[region], multiple, device)
        brain = find_brain(posteriors, self._fluid)
        if brain is None:
            return region
        placed = tuple(
            slice(r.start + b.start, r.start + b.stop) for r, b in zip(region, brain, strict=True)
        )
        return crop_box(placed, *grid)

    def _infer_where_it_fits(self, image: np.ndarray) -> tuple[Box, Tensor, torch.device]:
        """Fall back to the CPU if the GPU's memory does not suffice."""
        try:
            return *self._infer(image, self.device), self.device
        except torch.cuda.OutOfMemoryError:
            logger.warning(
                '%s: out of memory for an image of %s voxels; continuing on the CPU',
                self.device,
                ' x '.join(map(str, image.shape)),
            )
        torch.cuda.empty_cache()
        cpu = torch.device('cpu')
        try:
            self.network.to(cpu)
            return *self._infer(image, cpu), cpu
        finally:
            self.network.to(self.device)


@lru_cache(maxsize=2)
def cached_segmenter(
    model: str = DEFAULT_MODEL,
    device: str = 'auto',
    flip: bool = True,
    threads: int | None = None,
) -> Segmenter:
    """Return the process's :class:`Segmenter` for these options, loading it on first use."""
    return Segmenter(model, device, flip, threads)
