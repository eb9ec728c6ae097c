"""Invert the generative model by EM, with the network's posteriors as spatial prior.

The method is that of Van Leemput et al. (1999) and SAMSEG (Puonti et al. 2016). The network draws
borders too smooth; the scan's intensities correct them. As in the generative model (paper, section
2.2), each structure has a Gaussian, here with a mean that varies smoothly over the brain to follow
the bias field. Each iteration estimates means and variances from the posteriors, then posteriors
from the likelihood and the prior.

Voxels on a border show partial volume. Each iteration therefore computes the expected image from
posteriors and means, blurs it with the scanner's point-spread function, and adds the residual of
the scan to the unblurred image (back-projection; Irani & Peleg, CVGIP 53:231, 1991). Otherwise
grey voxels between white and black ones would be taken for a third, grey structure. Where slices
in several planes show one head, the residual is that of their acquired voxels (:mod:`.slices`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..hardware.threads import map_in_threads
from ..images.resampling import resample
from ..labels import mirror_channels
from ..linear import apply_along_axes, interpolation_matrix
from ..models.card import ModelCard
from .likelihood import MIN_POSTERIOR, Observed, block_sum, likelihood
from .observed_scan import ObservedScan, observe
from .postprocess import Box, join_boxes, support_box
from .slices import Slices

Matrices = tuple[Tensor, Tensor, Tensor]

ITERATIONS = 4
#: A structure keeps the network's posterior where it is lower: no likelihood of one scan makes it
#: the largest. Each further scan may weigh as much again.
LEAST_POSTERIOR = 1e-3
#: A structure of fewer voxels has no Gaussian.
MIN_VOXELS = 50
#: Smoothness of a structure's mean intensity, and spacing of the grid it is computed on.
DRIFT_MM = 20.0
COARSE_MM = 4.0


def refine_alone(
    posteriors: Tensor, image: np.ndarray, steps: np.ndarray, card: ModelCard
) -> Tensor:
    """Refine the posteriors of one scan, unless the model's card says not to.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
    image : (x, y, z) array
    steps : (3,) array
        See :func:`refine`.
    card : ModelCard
        Card of the network; its ``intensity_weight`` is 0 if posteriors are not to be refined.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
    """
    if not card.intensity_weight:
        return posteriors
    mirror = mirror_channels(card.labels).tolist()
    return refine(posteriors, [image], card.spacing_mm, mirror, card.intensity_weight, [steps])


@torch.inference_mode()
def refine(
    posteriors: Tensor,
    images: Sequence[np.ndarray],
    spacing_mm: float,
    mirror: Sequence[int],
    weight: float,
    steps: Sequence[np.ndarray],
    slices: Sequence[Slices | None] = (),
) -> Tensor:
    """Refine posteriors by the intensities of one scan, or of several of one head together.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
        They sum to 1. Changed in place, but for channel 0, background.
    images : sequence of (x, y, z) arrays
        The scans on the same grid, NaN outside of their fields of view. A structure's Gaussian
        has one dimension for each.
    spacing_mm : float
        Voxel size of that grid.
    mirror : (n_channels,) sequence of int
        Channel permutation of a left/right flip: both sides of a structure share a Gaussian.
    weight : float
        Exponent of the likelihood: 0 leaves the network's posteriors, 1 assumes that intensities
        of neighbouring voxels are independent. Reduced for coarse scans by
        :func:`.original_spacing.independence`.
    steps : sequence of (3,) arrays
        For each scan, spacing of the original voxels divided by that of the grid, see
        :func:`.original_spacing.own_steps`.
    slices : sequence of Slices or None, optional
        For each scan, its acquired voxels, by which detail across its slices is restored; without
        them only the blur of the interpolated scan is known.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        Sums to 1.
    """
    acquired = slices or [None] * len(images)
    scans = [
        observe(image, step, weight, own)
        for image, step, own in zip(images, steps, acquired, strict=True)
    ]
    structures = _structures(posteriors, mirror, spacing_mm, LEAST_POSTERIOR ** len(scans))
    foreground = torch.zeros(posteriors[0].numel())
    for one in structures:
        foreground.index_add_(0, one.voxels, one.prior)
    found = [one.prior for one in structures]
    sharp = [scan.image for scan in scans]
    for _ in range(ITERATIONS):
        means = [
            _drifting_means(scan, image, structures, found)
            for scan, image in zip(scans, sharp, strict=True)
        ]
        sharp = [
            scan.deblurred(_expected(scan.image, foreground, structures, found, of_scan))
            for scan, of_scan in zip(scans, means, strict=True)
        ]
        found = _weigh(scans, sharp, means, structures, found)
        total = torch.zeros_like(foreground)
        for one, now in zip(structures, found, strict=True):
            total.index_add_(0, one.voxels, now)
        share = foreground / total.clamp_(min=torch.finfo(total.dtype).tiny)
        map_in_threads(partial(_rescale, share), structures, found)
    map_in_threads(partial(_write, posteriors), structures, found)
    return posteriors


def _rescale(share: Tensor, one: _Structure, now: Tensor) -> None:
    """Multiply the posteriors of a structure by a factor for each voxel of the volume."""
    now.mul_(_at(share, one.voxels))


def _write(posteriors: Tensor, one: _Structure, now: Tensor) -> None:
    """Write the posteriors of a structure's sides into the volumes."""
    for channel, part in one.parts:
        volume = posteriors[channel][one.box]
        values = volume.flatten().index_copy_(0, one.inside[part].long(), now[part])
        volume.copy_(values.view(volume.shape))


@dataclass(frozen=True)
class _Structure:
    """A structure of one or two sides: voxels with a posterior that is refined.

    Lists of voxels are much shorter than the volume, and than the structure's bounding box.

    Attributes
    ----------
    box : tuple of slice
        Bounding box of both sides.
    voxels, inside, cells : (n,) int32 tensor
        Indices of the voxels in the volume, in the box, and in the box's coarse grid.
    prior : (n,) float32 tensor
        The network's posteriors.
    parts : tuple of (int, slice)
        Each side's channel and part of the lists.
    cell_voxels : int
        Number of voxels in a cell of the coarse grid.
    blur, enlarge : three matrices
        They blur the coarse grid by a Gaussian of `DRIFT_MM`, with zeros outside, and interpolate
        it in the box.
    """

    box: Box
    voxels: Tensor
    inside: Tensor
    cells: Tensor
    prior: Tensor
    parts: tuple[tuple[int, slice], ...]
    cell_voxels: int
    blur: Matrices
    enlarge: Matrices


def _structures(
    posteriors: Tensor, mirror: Sequence[int], spacing_mm: float, least: float
) -> list[_Structure]:
    """List the structures that have any voxel of at least this posterior, the largest first.

    Threads that compute them in this order end at about the same time.
    """
    boxes = map_in_threads(partial(support_box, floor=least), posteriors)
    pairs = [sorted({c, int(mirror[c])}) for c in range(1, len(mirror)) if c <= mirror[c]]
    there = ([channel for channel in pair if boxes[channel] is not None] for pair in pairs)

    def gather(pair: list[int]) -> _Structure:
        return _structure(posteriors, pair, boxes, spacing_mm, least)

    found = map_in_threads(gather, filter(None, there))
    return sorted(found, key=lambda one: len(one.voxels), reverse=True)


def _structure(
    posteriors: Tensor,
    channels: list[int],
    boxes: Sequence[Box | None],
    spacing_mm: float,
    least: float,
) -> _Structure:
    sides = [box for channel in channels if (box := boxes[channel]) is not None]
    box = join_boxes(sides)
    step = max(1, round(COARSE_MM / spacing_mm))
    size = [part.stop - part.start for part in box]
    coarse = [-(-n // step) for n in size]
    lists, priors, parts, first = [], [], [], 0
    for channel, side in zip(channels, sides, strict=True):
        values = posteriors[channel][side].flatten()
        likely = (values >= least).nonzero()[:, 0]
        inner = [
            torch.arange(p.start - o.start, p.stop - o.start)
            for p, o in zip(side, box, strict=True)
        ]
        outer = [torch.arange(part.start, part.stop) for part in side]
        tables = (
            _flat_index(outer, posteriors.shape[1:]),
            _flat_index(inner, size),
            _flat_index([places // step for places in inner], coarse),
        )
        lists.append([table.index_select(0, likely) for table in tables])
        priors.append(values.index_select(0, likely))
        parts.append((channel, slice(first, first := first + len(priors[-1]))))
    voxels, inside, cells = (torch.cat(part) for part in zip(*lists, strict=True))
    x, y, z = (_gaussian(n, DRIFT_MM / (step * spacing_mm)) for n in coarse)
    blur = x, y, z
    x, y, z = (_interpolation(n, m, step) for n, m in zip(size, coarse, strict=True))
    enlarge = x, y, z
    prior = torch.cat(priors)
    return _Structure(box, voxels, inside, cells, prior, tuple(parts), step**3, blur, enlarge)


def _expected(
    scan: Tensor,
    foreground: Tensor,
    structures: Sequence[_Structure],
    found: Sequence[Tensor],
    means: Sequence[Tensor | None],
) -> Tensor:
    """Return the image expected from posteriors and means; background keeps its intensities."""
    expected = (1 - foreground).view(scan.shape) * scan

    def share(one: _Structure, now: Tensor, mean: Tensor | None) -> Tensor:
        return now * (_at(scan, one.voxels) if mean is None else mean)

    parts = map_in_threads(share, structures, found, means)
    for one, part in zip(structures, parts, strict=True):
        expected.view(-1).index_add_(0, one.voxels, part)
    return expected


def _weigh(
    scans: Sequence[ObservedScan],
    sharp: Sequence[Tensor],
    means: Sequence[Sequence[Tensor | None]],
    structures: Sequence[_Structure],
    found: Sequence[Tensor],
) -> list[Tensor]:
    """Return the prior of each structure times the likelihood of all scans' intensities."""

    def weigh(one: _Structure, now: Tensor, of_scans: tuple[Tensor | None, ...]) -> Tensor:
        observed = [
            Observed(_at(image, one.voxels), mean, scan.shows(one.voxels), scan.weight)
            for scan, image, mean in zip(scans, sharp, of_scans, strict=True)
        ]
        return likelihood(now, observed).mul_(one.prior)

    return map_in_threads(weigh, structures, found, zip(*means, strict=True))


def _drifting_means(
    scan: ObservedScan, image: Tensor, structures: Sequence[_Structure], found: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the mean intensity of each structure in a scan; see :func:`_drifting_mean`."""

    def compute(one: _Structure, posterior: Tensor) -> Tensor | None:
        shown = scan.shows(one.voxels)
        seen = posterior if shown is None else posterior * shown
        return _drifting_mean(one, seen, _at(image, one.voxels))

    return map_in_threads(compute, structures, found)


def _drifting_mean(one: _Structure, posterior: Tensor, observed: Tensor) -> Tensor | None:
    """Return the mean intensity of a structure in each of its voxels.

    It is computed on a coarse grid. None if the structure is too small.
    """
    sure = functional.threshold(posterior, MIN_POSTERIOR, 0.0)
    amount = block_sum(sure)
    if amount < MIN_VOXELS:
        return None
    weighted = sure * observed
    overall = block_sum(weighted) / amount
    shape = [len(matrix) for matrix in one.blur]
    sums = torch.zeros(2, math.prod(shape))
    for into, values in zip(sums, (weighted, sure), strict=True):
        into.index_add_(0, one.cells, values)
    sums /= one.cell_voxels
    intensity, weight = apply_along_axes(sums.view(2, *shape), one.blur)
    # Far from the structure the mean tends to the overall one.
    mean = (intensity + 1e-3 * overall) / (weight + 1e-3)
    return _at(resample(mean, one.enlarge), one.inside)


def _at(volume: Tensor, voxels: Tensor) -> Tensor:
    """Return the values of a volume in a list of voxels."""
    return volume.view(-1).index_select(0, voxels)


def _flat_index(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Return the indices in a flattened volume of the voxels of a grid, as int32.

    Parameters
    ----------
    places : three (n,) tensors
        Where the grid's planes lie along each axis.
    shape : (3,) sequence of int
        Shape of the volume.
    """
    x, y, z = (part.int() for part in places)
    rows = x[:, None] * shape[1] + y
    return (rows[:, :, None] * shape[2] + z).flatten()


def _gaussian(size: int, sigma: float) -> Tensor:
    """Return the matrix of a Gaussian blur, with zeros outside."""
    reach = math.ceil(3 * sigma)
    index = torch.arange(size)
    distance = index[:, None] - index
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= reach)
    return matrix / kernel.sum()


def _interpolation(size: int, coarse: int, step: int) -> Tensor:
    """Return the matrix that interpolates linearly between the centres of cells of `step`."""
    places = (torch.arange(size) + 0.5) / step - 0.5
    return interpolation_matrix(places.clamp_(0, coarse - 1), coarse)
