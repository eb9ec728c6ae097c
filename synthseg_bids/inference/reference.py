"""Segment a scan exactly as the reference implementation, to match earlier results.

Meant for the published weights of SynthSeg 1.0 and 2.0. ``docs/compat.rst`` explains how our own
method (:mod:`.segmenter`) differs, and why.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..hardware.device import check_threads, resolve_device, set_threads
from ..images.ct import CT_RANGE
from ..images.geometry import from_ras, orientation, spacing_mm, to_ras, voxel_volume_mm3
from ..images.resampling import resample
from ..models.registry import load_model
from .engine import Engine
from .forward import infer
from .postprocess import KEEP_THRESHOLD, largest_component, soft_volumes
from .preprocess import check_contrast, rescale_intensities
from .segmenter import Segmenter

#: Training spacing of the published networks, and deviation without resampling.
SPACING_MM = 1.0
TOLERANCE_MM = 0.05
#: Sides of the network's input are multiples of the first, and at least the second.
MULTIPLE, SMALLEST = 32, 128
#: Standard deviation of the blur of the posteriors, in voxels.
BLUR = 0.5
#: Posteriors below this are removed by the reference's fast mode.
FAST_THRESHOLD = 0.2


@dataclass(frozen=True)
class ReferenceSegmentation:
    """A segmentation as the reference implementation gives it.

    Attributes
    ----------
    labels : (x, y, z) int16 array
        FreeSurfer numbers on the scan's grid resampled to 1 mm.
    affine : (4, 4) float64 array
        Affine of that grid, which has the scan's axes.
    posteriors : (n_channels, x, y, z) float32 array
    volumes_mm3 : (n_channels,) float64 array
        Sums of posteriors, in channel order, background included.
    device : str
    seconds : float
    """

    labels: np.ndarray
    affine: np.ndarray
    posteriors: np.ndarray
    volumes_mm3: np.ndarray
    device: str
    seconds: float


def reference_segmenter(
    model: str | Path, device: str | torch.device = 'auto', threads: int | None = None
) -> Segmenter:
    """Load a network for :func:`segment_as_reference`, in float32 as the reference.

    Parameters
    ----------
    model : str or Path
    device : str or torch.device
    threads : int, optional
        See :class:`~synthseg_bids.inference.segmenter.Segmenter`.

    Returns
    -------
    Segmenter
    """
    set_threads(threads)
    network, card = load_model(model)
    return Segmenter.from_engine(Engine(network, resolve_device(device), torch.float32), card)


@torch.inference_mode()
def segment_as_reference(
    segmenter: Segmenter, data: np.ndarray, affine: np.ndarray, flip: bool = True, ct: bool = False
) -> ReferenceSegmentation:
    """Segment a scan as ``SynthSeg_predict`` does, with its default options or ``--fast``.

    Parameters
    ----------
    segmenter : Segmenter
        From :func:`reference_segmenter`: published weights, or any network trained at 1 mm.
    data : (x, y, z) array
    affine : (4, 4) array
    flip : bool
        Average with the mirrored scan and keep one connected component per structure; False for
        the reference's ``--fast``.
    ct : bool
        Clip to 0 to 80 Hounsfield units first.

    Returns
    -------
    ReferenceSegmentation

    Raises
    ------
    ValueError
        If the network was trained at another spacing than 1 mm.
    """
    if segmenter.card.spacing_mm != SPACING_MM:
        raise ValueError(
            f'{segmenter.card.name}: works at {segmenter.card.spacing_mm:g} mm; the reference '
            'implementation needs a network for 1 mm'
        )
    check_threads()
    start = time.perf_counter()
    check_contrast(np.clip(data, *CT_RANGE) if ct else data, ct)
    image, new_affine = resample_as_reference(np.asarray(data, dtype=np.float32), affine)
    orient = orientation(new_affine)
    in_ras = np.ascontiguousarray(to_ras(image, orient))
    if ct:
        in_ras = np.clip(in_ras, *CT_RANGE)
    padded, inside = _pad(rescale_intensities(in_ras))
    mirror = segmenter.mirror if flip else None
    # TF32 convolutions on a GPU would round their factors to ten bits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        posteriors = infer(segmenter.engine, torch.from_numpy(padded), mirror).posteriors
    posteriors = blur(posteriors)
    if flip:
        groups = segmenter.card.topology_groups
        posteriors = _largest_component_each(_brain_only(posteriors), groups)[inside]
    else:
        posteriors = _brain_only(posteriors[inside])
        posteriors[1:] *= posteriors[1:] > FAST_THRESHOLD
    total = posteriors.sum(0)
    posteriors[0][total == 0] = 1
    posteriors /= total.where(total > 0, 1)
    labels = np.array(segmenter.card.labels, dtype=np.int16)[posteriors.argmax(0).numpy()]
    return ReferenceSegmentation(
        labels=np.ascontiguousarray(from_ras(labels, orient)),
        affine=new_affine,
        posteriors=from_ras(posteriors.numpy(), orient),
        volumes_mm3=soft_volumes(
            posteriors,
            posteriors[0].numel(),
            voxel_volume_mm3(new_affine),
            segmenter.card.unknown_channels,
        ),
        device=str(segmenter.device),
        seconds=time.perf_counter() - start,
    )


def resample_as_reference(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample a scan to 1 mm, unless its voxels are within 5 % of it.

    Parameters
    ----------
    data : (x, y, z) float32 array
    affine : (4, 4) array

    Returns
    -------
    data : (x', y', z') float32 array
    affine : (4, 4) array
    """
    spacing = spacing_mm(affine)
    if (abs(spacing - SPACING_MM) <= TOLERANCE_MM).all():
        return data, np.asarray(affine, dtype=float)
    factors = spacing / SPACING_MM
    matrices = [
        reference_matrix(n, float(factor)) for n, factor in zip(data.shape, factors, strict=True)
    ]
    new = np.array(affine, dtype=float)
    new[:3, :3] /= factors
    new[:3, 3] -= new[:3, :3] @ (0.5 * (factors - 1))
    return resample(data, matrices), new


def reference_matrix(n: int, factor: float) -> np.ndarray:
    """Return the weights with which the reference resamples one axis.

    Parameters
    ----------
    n : int
        Number of voxels.
    factor : float
        New voxels per old one.

    Returns
    -------
    (ceil(n * factor), n) float32 array
        Weights of a Gaussian blur (only if the axis gets coarser, edges mirrored) followed by
        linear interpolation.
    """
    where = np.arange(math.ceil(n * factor)) / factor - (factor - 1) / (2 * factor)
    distance = np.clip(where, 0, n - 1)[:, None] - np.arange(n)
    linear = np.clip(1 - abs(distance), 0, None)
    if factor > 1:
        return linear.astype(np.float32)
    sigma = 0.25 / factor
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    blurring = np.zeros((n, n))
    for offset, weight in zip(offsets, kernel, strict=True):
        # The edge voxel is repeated: d c b a | a b c d | d c b a.
        position = (np.arange(n) + offset) % (2 * n)
        np.add.at(blurring, (np.arange(n), np.minimum(position, 2 * n - 1 - position)), weight)
    return (linear @ blurring).astype(np.float32)


def _pad(image: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Pad with zeros on both sides; also return the image's slices in an array with channels."""
    sides = [max(-(-n // MULTIPLE) * MULTIPLE, SMALLEST) for n in image.shape]
    before = [(side - n) // 2 for side, n in zip(sides, image.shape, strict=True)]
    widths = [
        (first, side - n - first)
        for first, side, n in zip(before, sides, image.shape, strict=True)
    ]
    inside = [slice(first, first + n) for first, n in zip(before, image.shape, strict=True)]
    return np.pad(image, widths), (slice(None), *inside)


@torch.inference_mode()
def blur(posteriors: Tensor) -> Tensor:
    """Blur with a Gaussian of 0.5 voxels, truncated at one voxel, zeros outside; in place.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
    """
    side = math.exp(-0.5 / BLUR**2)
    middle, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    for channel in posteriors:
        for axis in range(3):
            length = channel.shape[axis] - 1
            old = channel.clone()
            channel.mul_(middle)
            channel.narrow(axis, 1, length).add_(old.narrow(axis, 0, length), alpha=side)
            channel.narrow(axis, 0, length).add_(old.narrow(axis, 1, length), alpha=side)
    return posteriors


def _brain_only(posteriors: Tensor) -> Tensor:
    """Remove the foreground outside its largest connected component."""
    brain = largest_component((posteriors[1:].sum(0) > KEEP_THRESHOLD).numpy())
    posteriors[1:] *= torch.from_numpy(brain)
    return posteriors


def _largest_component_each(posteriors: Tensor, groups: tuple[int, ...]) -> Tensor:
    """Keep the largest connected component of every topology group."""
    for group in sorted(set(groups) - {0}):
        channels = [channel for channel, g in enumerate(groups) if g == group]
        component = largest_component((posteriors[channels] > KEEP_THRESHOLD).any(0).numpy())
        posteriors[channels] *= torch.from_numpy(component)
    return posteriors
