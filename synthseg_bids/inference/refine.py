"""Invert the generative model by EM, with the network's posteriors as spatial prior.

The method is that of Van Leemput et al. (1999) and SAMSEG (Puonti et al. 2016). The network draws
borders too smooth; the scan's intensities correct them. As in the generative model (paper, section
2.2), each structure has a Gaussian, here with a mean that varies smoothly over the brain to follow
the bias field. Each iteration estimates means and variances from the posteriors, then posteriors
from the likelihood and the prior.

Voxels on a border show partial volume. Each iteration therefore computes the expected image from
posteriors and means, blurs it with the scanner's point-spread function, and adds the residual of
the scan to the unblurred image (back-projection; Irani & Peleg, CVGIP 53:231, 1991). Otherwise
grey voxels between white and black ones would be taken for a third, grey structure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..labels import mirror_channels
from ..linear import apply_along_axes, blur_matrix, interpolation_matrix
from ..models.card import ModelCard
from .postprocess import Box, join_boxes, smooth, support_box
from .preprocess import rescale_intensities

Matrices = tuple[Tensor, Tensor, Tensor]

ITERATIONS = 4
#: The likelihood is constant beyond this many standard deviations: lesions, vessels, artefacts.
OUTLIER = 3.0
#: A structure keeps the network's posterior where it is lower: no likelihood makes it the largest.
LEAST_POSTERIOR = 1e-3
#: Lower posteriors do not count for a structure's Gaussian; fewer voxels leave it without one.
MIN_POSTERIOR = 0.3
MIN_VOXELS = 50
#: Smoothness of a structure's mean intensity, and spacing of the grid it is computed on.
DRIFT_MM = 20.0
COARSE_MM = 4.0
#: Standard deviation of the scanner's point-spread function, in scan voxels.
BLUR = 0.5
#: Values that are summed in float32, before the sums are added in float64.
BLOCK = 256
#: Least standard deviation, for intensities in [0, 1].
LEAST_STD = 0.02
#: Second differences count as zero below this share of the mean first difference. A scan was
#: interpolated if the share of such voxels exceeds that of zero first differences by this much:
#: 0 to 0.1 in original scans, a third or more in interpolated ones.
FLATNESS_TOLERANCE = 0.1
LEAST_STRAIGHT = 0.2


def sharpen(posteriors: Tensor, image: np.ndarray, steps: np.ndarray, card: ModelCard) -> Tensor:
    """Smooth posteriors if the network predicts blocks of voxels, then refine them.

    Parameters
    ----------
    posteriors, image, steps
        See :func:`refine`; `steps` before :func:`own_steps`.
    card : ModelCard
        Card of the network; its ``intensity_weight`` is 0 if posteriors are not to be refined.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
    """
    if card.network.sub_voxels > 1:
        posteriors = smooth(posteriors)
    if not card.intensity_weight:
        return posteriors
    mirror = mirror_channels(card.labels).tolist()
    steps = own_steps(steps, image, posteriors[0] < 0.5)
    return refine(posteriors, image, card.spacing_mm, mirror, card.intensity_weight, steps)


@torch.inference_mode()
def refine(
    posteriors: Tensor,
    image: np.ndarray,
    spacing_mm: float,
    mirror: Sequence[int],
    weight: float,
    steps: np.ndarray,
) -> Tensor:
    """Refine posteriors by the intensities of a scan.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
        They sum to 1. Changed in place, but for channel 0, background.
    image : (x, y, z) array
        The scan on the same grid.
    spacing_mm : float
        Voxel size of that grid.
    mirror : (n_channels,) sequence of int
        Channel permutation of a left/right flip: both sides of a structure share a Gaussian.
    weight : float
        Exponent of the likelihood: 0 leaves the network's posteriors, 1 assumes that intensities
        of neighbouring voxels are independent. Reduced for coarse scans by :func:`independence`.
    steps : (3,) array
        Spacing of the original voxels divided by that of the grid, see :func:`own_steps`.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        Sums to 1.
    """
    scan = torch.from_numpy(rescale_intensities(np.ascontiguousarray(image, dtype=np.float32)))
    structures = _structures(posteriors, mirror, spacing_mm)
    weight *= independence(steps)
    sigmas = BLUR * np.maximum(steps, 1)
    x, y, z = (blur_matrix(n, float(s)) for n, s in zip(scan.shape, sigmas, strict=True))
    foreground = torch.zeros(scan.numel())
    for one in structures:
        foreground.index_add_(0, one.voxels, one.prior)
    found = [one.prior for one in structures]
    sharp = scan
    for _ in range(ITERATIONS):
        means = [
            _drifting_mean(one, now, _at(sharp, one.voxels))
            for one, now in zip(structures, found, strict=True)
        ]
        expected = _expected(scan, foreground, structures, found, means)
        # The deblurred scan: the expected image plus the residual.
        sharp = expected + scan - apply_along_axes(expected, (x, y, z))
        total = torch.zeros_like(foreground)
        for i, (one, mean) in enumerate(zip(structures, means, strict=True)):
            likelihood = _likelihood(found[i], _at(sharp, one.voxels), mean, weight)
            found[i] = likelihood.mul_(one.prior)
            total.index_add_(0, one.voxels, found[i])
        share = foreground / total.clamp_(min=torch.finfo(total.dtype).tiny)
        for now, one in zip(found, structures, strict=True):
            now.mul_(_at(share, one.voxels))
    for one, now in zip(structures, found, strict=True):
        for channel, part in one.parts:
            volume = posteriors[channel][one.box]
            values = volume.flatten().index_copy_(0, one.inside[part].long(), now[part])
            volume.copy_(values.view(volume.shape))
    return posteriors


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


def _structures(posteriors: Tensor, mirror: Sequence[int], spacing_mm: float) -> list[_Structure]:
    """List the structures that have any voxel."""
    boxes = [support_box(volume, LEAST_POSTERIOR) for volume in posteriors]
    pairs = [sorted({c, int(mirror[c])}) for c in range(1, len(mirror)) if c <= mirror[c]]
    there = ([channel for channel in pair if boxes[channel] is not None] for pair in pairs)
    return [_structure(posteriors, pair, boxes, spacing_mm) for pair in there if pair]


def _structure(
    posteriors: Tensor, channels: list[int], boxes: Sequence[Box | None], spacing_mm: float
) -> _Structure:
    sides = [box for channel in channels if (box := boxes[channel]) is not None]
    box = join_boxes(sides)
    step = max(1, round(COARSE_MM / spacing_mm))
    size = [part.stop - part.start for part in box]
    coarse = [-(-n // step) for n in size]
    lists, priors, parts, first = [], [], [], 0
    for channel, side in zip(channels, sides, strict=True):
        values = posteriors[channel][side]
        likely = values >= LEAST_POSTERIOR
        near = [
            place.add_(own.start - part.start)
            for place, own, part in zip(likely.nonzero().unbind(1), side, box, strict=True)
        ]
        places = [place + part.start for place, part in zip(near, box, strict=True)]
        cell = [place // step for place in near]
        grids = ((places, posteriors.shape[1:]), (near, size), (cell, coarse))
        lists.append([_flat_index(*grid) for grid in grids])
        priors.append(values[likely])
        parts.append((channel, slice(first, first := first + len(priors[-1]))))
    voxels, inside, cells = (torch.cat(part) for part in zip(*lists, strict=True))
    x, y, z = (_gaussian(n, DRIFT_MM / (step * spacing_mm)) for n in coarse)
    blur = x, y, z
    x, y, z = (_interpolation(n, m, step) for n, m in zip(size, coarse, strict=True))
    enlarge = x, y, z
    prior = torch.cat(priors)
    return _Structure(box, voxels, inside, cells, prior, tuple(parts), step**3, blur, enlarge)


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


def _expected(
    scan: Tensor,
    foreground: Tensor,
    structures: Sequence[_Structure],
    found: Sequence[Tensor],
    means: Sequence[Tensor | None],
) -> Tensor:
    """Return the image expected from posteriors and means; background keeps its intensities."""
    expected = (1 - foreground).view(scan.shape) * scan
    for one, now, mean in zip(structures, found, means, strict=True):
        intensity = _at(scan, one.voxels) if mean is None else mean
        expected.view(-1).index_add_(0, one.voxels, now * intensity)
    return expected


def _drifting_mean(one: _Structure, posterior: Tensor, observed: Tensor) -> Tensor | None:
    """Return the mean intensity of a structure in each of its voxels.

    It is computed on a coarse grid. None if the structure is too small.
    """
    sure = functional.threshold(posterior, MIN_POSTERIOR, 0.0)
    amount = _sum(sure)
    if amount < MIN_VOXELS:
        return None
    weighted = sure * observed
    overall = _sum(weighted) / amount
    shape = [len(matrix) for matrix in one.blur]
    sums = torch.zeros(2, math.prod(shape))
    for into, values in zip(sums, (weighted, sure), strict=True):
        into.index_add_(0, one.cells, values)
    sums /= one.cell_voxels
    intensity, weight = apply_along_axes(sums.view(2, *shape), one.blur)
    # Far from the structure the mean tends to the overall one.
    mean = (intensity + 1e-3 * overall) / (weight + 1e-3)
    return _at(apply_along_axes(mean, one.enlarge), one.inside)


def _likelihood(posterior: Tensor, observed: Tensor, mean: Tensor | None, weight: float) -> Tensor:
    """Return the likelihood of each intensity, raised to the power `weight`."""
    if mean is None:
        return torch.ones_like(observed)
    squares = (observed - mean).square_()
    sure = functional.threshold(posterior, MIN_POSTERIOR, 0.0)
    variance = _sum(sure * squares) / _sum(sure) + LEAST_STD**2
    squares.clamp_(max=variance * OUTLIER**2).mul_(-0.5 * weight / variance).exp_()
    return squares.mul_((2 * math.pi * variance) ** (-0.5 * weight))


def _sum(values: Tensor) -> float:
    """Sum blocks, then in float64; the result does not depend on the number of threads."""
    whole = len(values) - len(values) % BLOCK
    blocks = values[:whole].view(-1, BLOCK).sum(1)
    return float(blocks.double().sum() + values[whole:].double().sum())


def _at(volume: Tensor, voxels: Tensor) -> Tensor:
    """Return the values of a volume in a list of voxels."""
    return volume.view(-1).index_select(0, voxels)


def _flat_index(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Return the indices of voxels in a flattened volume, as int32."""
    x, y, z = places
    return ((x * shape[1] + y) * shape[2] + z).int()


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
