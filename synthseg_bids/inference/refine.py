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
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..hardware.threads import map_in_threads
from ..labels import mirror_channels
from ..linear import apply_along_axes
from ..models.card import ModelCard
from .likelihood import MIN_POSTERIOR, Observed, block_sum, likelihood
from .observed_scan import ObservedScan, observe
from .postprocess import Box
from .slices import Slices
from .voxel_lists import Structure, add_up, at, list_structures

ITERATIONS = 4
#: A structure keeps the network's posterior where it is lower: no likelihood of one scan makes it
#: the largest. Each further scan may weigh as much again.
LEAST_POSTERIOR = 1e-3
#: A structure of fewer voxels has no Gaussian.
MIN_VOXELS = 50


def refine_alone(
    posteriors: Tensor,
    image: np.ndarray,
    steps: np.ndarray,
    card: ModelCard,
    boxes: Sequence[Box] | None = None,
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
    boxes : sequence of boxes, optional
        See :func:`.postprocess.supports`.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
    """
    if not card.intensity_weight:
        return posteriors
    mirror = mirror_channels(card.labels).tolist()
    settings = card.spacing_mm, mirror, card.intensity_weight
    return refine(posteriors, [image], *settings, [steps], boxes)


@torch.inference_mode()
def refine(
    posteriors: Tensor,
    images: Sequence[np.ndarray],
    spacing_mm: float,
    mirror: Sequence[int],
    weight: float,
    steps: Sequence[np.ndarray],
    boxes: Sequence[Box] | None = None,
    slices: Sequence[Slices | None] = (),
    shown_anew: float = 1.0,
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
    boxes : sequence of boxes, optional
        For one scan: where each channel has posteriors; see :func:`.postprocess.supports`.
    slices : sequence of Slices or None, optional
        For each scan, its acquired voxels, by which detail across its slices is restored; without
        them only the blur of the interpolated scan is known.
    shown_anew : float
        Factor by which coarse voxels count more since other scans show the same place in other
        slices; none counts more than a scan as fine as the grid.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        Sums to 1.
    """
    acquired = slices or [None] * len(images)
    scans = [
        observe(image, step, weight, own, shown_anew)
        for image, step, own in zip(images, steps, acquired, strict=True)
    ]
    least = LEAST_POSTERIOR ** len(scans)
    structures = list_structures(posteriors, mirror, spacing_mm, least, boxes)
    found = [one.prior for one in structures]
    foreground = torch.zeros(posteriors.shape[1:])
    add_up(foreground, structures, found)
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
        add_up(total, structures, found)
        share = foreground / total.clamp_(min=torch.finfo(total.dtype).tiny)
        map_in_threads(partial(_rescale, share), structures, found)
    map_in_threads(partial(_write, posteriors), structures, found)
    return posteriors


def _rescale(share: Tensor, one: Structure, now: Tensor) -> None:
    """Multiply the posteriors of a structure by a factor for each voxel of the volume."""
    now.mul_(at(share, one.voxels))


def _write(posteriors: Tensor, one: Structure, now: Tensor) -> None:
    """Write the posteriors of a structure's sides into the volumes."""
    for channel, box, part in one.parts:
        volume = posteriors[channel][box]
        volume.masked_scatter_(volume >= one.least, now[part])


def _expected(
    scan: Tensor,
    foreground: Tensor,
    structures: Sequence[Structure],
    found: Sequence[Tensor],
    means: Sequence[Tensor | None],
) -> Tensor:
    """Return the image expected from posteriors and means; background keeps its intensities."""
    expected = (1 - foreground).mul_(scan)

    def share(one: Structure, now: Tensor, mean: Tensor | None) -> Tensor:
        return now * (at(scan, one.voxels) if mean is None else mean)

    add_up(expected, structures, map_in_threads(share, structures, found, means))
    return expected


def _weigh(
    scans: Sequence[ObservedScan],
    sharp: Sequence[Tensor],
    means: Sequence[Sequence[Tensor | None]],
    structures: Sequence[Structure],
    found: Sequence[Tensor],
) -> list[Tensor]:
    """Return the prior of each structure times the likelihood of all scans' intensities."""

    def weigh(one: Structure, now: Tensor, of_scans: tuple[Tensor | None, ...]) -> Tensor:
        observed = [
            Observed(at(image, one.voxels), mean, scan.shows(one.voxels), scan.weight)
            for scan, image, mean in zip(scans, sharp, of_scans, strict=True)
        ]
        return likelihood(now, observed).mul_(one.prior)

    return map_in_threads(weigh, structures, found, zip(*means, strict=True))


def _drifting_means(
    scan: ObservedScan, image: Tensor, structures: Sequence[Structure], found: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the mean intensity of each structure in a scan; see :func:`_drifting_mean`."""

    def compute(one: Structure, posterior: Tensor) -> Tensor | None:
        shown = scan.shows(one.voxels)
        seen = posterior if shown is None else posterior * shown
        return _drifting_mean(one, seen, at(image, one.voxels))

    return map_in_threads(compute, structures, found)


def _drifting_mean(one: Structure, posterior: Tensor, observed: Tensor) -> Tensor | None:
    """Return the mean intensity of a structure in each of its voxels.

    It is computed on a coarse grid. None if the structure is too small.
    """
    sure = functional.threshold(posterior, MIN_POSTERIOR, 0.0)
    amount = block_sum(sure)
    if amount < MIN_VOXELS:
        return None
    shape = [len(matrix) for matrix in one.blur]
    sums = torch.zeros(2, math.prod(shape))
    for into, values in zip(sums, (sure * observed, sure), strict=True):
        into.index_add_(0, one.cells, values)
    overall = block_sum(sums[0]) / amount
    sums /= one.cell_voxels
    intensity, weight = apply_along_axes(sums.view(2, *shape), one.blur)
    # Far from the structure the mean tends to the overall one.
    mean = (intensity + 1e-3 * overall) / (weight + 1e-3)
    return one.interpolated(mean)
