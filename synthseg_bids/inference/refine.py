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
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..images.geometry import bounding_box
from ..labels import mirror_channels
from ..linear import apply_along_axes, blur_matrix
from ..models.card import ModelCard
from .likelihood import MIN_POSTERIOR, Mean, likelihood, total_of
from .preprocess import rescale_intensities

#: Channels of a structure, and its bounding box.
Structure = tuple[list[int], tuple[slice, ...]]

ITERATIONS = 4
#: A structure is excluded where its prior is lower.
LEAST_POSTERIOR = 1e-4
#: A structure of fewer voxels is left without a Gaussian.
MIN_VOXELS = 50
#: Smoothness of a structure's mean intensity, and spacing of the grid it is computed on.
DRIFT_MM = 20.0
COARSE_MM = 4.0
#: Standard deviation of the scanner's point-spread function, in scan voxels.
BLUR = 0.5
#: Second differences count as zero below this share of the mean first difference. A scan was
#: interpolated if the share of such voxels exceeds that of zero first differences by this much:
#: 0 to 0.1 in original scans, a third or more in interpolated ones.
FLATNESS_TOLERANCE = 0.1
LEAST_STRAIGHT = 0.2


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
) -> Tensor:
    """Refine posteriors by the intensities of one scan, or of several of one head together.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
        They sum to 1. Channel 0, background, is not changed.
    images : sequence of (x, y, z) arrays
        The scans on the same grid, NaN outside of their fields of view. A structure's Gaussian
        has one dimension for each.
    spacing_mm : float
        Voxel size of that grid.
    mirror : (n_channels,) sequence of int
        Channel permutation of a left/right flip: both sides of a structure share a Gaussian.
    weight : float
        Exponent of the likelihood: 0 leaves the network's posteriors, 1 assumes that intensities
        of neighbouring voxels are independent. Reduced for coarse scans by :func:`independence`.
    steps : sequence of (3,) arrays
        For each scan, spacing of the original voxels divided by that of the grid, see
        :func:`own_steps`.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        Sums to 1.
    """
    scans, seen = zip(*(_scan_and_view(image) for image in images), strict=True)
    groups = [sorted({c, int(mirror[c])}) for c in range(1, len(mirror)) if c <= mirror[c]]
    structures = [
        (channels, _box(posteriors[channels].amax(0) >= LEAST_POSTERIOR)) for channels in groups
    ]
    # Indices of each channel within the bounding box of its structure.
    places: list[tuple[int | slice, ...]]
    places = [(c, *box) for channels, box in structures for c in channels]
    weights = [weight * independence(step) for step in steps]
    foreground = 1 - posteriors[0]
    found = torch.zeros_like(posteriors)
    found[0] = posteriors[0]
    for place in places:
        found[place] = posteriors[place]
    sharp: Sequence[Tensor] = scans
    for _ in range(ITERATIONS):
        means, sharp = _deblurred(found, scans, seen, sharp, structures, spacing_mm, steps)
        total = torch.zeros_like(foreground)
        for number, (channels, box) in enumerate(structures):
            prior, inside = (volume[(slice(None), *box)] for volume in (posteriors, found))
            weighted = likelihood(
                inside[channels].sum(0),
                [scan[box] for scan in sharp],
                [None if view is None else view[box] for view in seen],
                [of_scan[number] for of_scan in means],
                weights,
            )
            for channel in channels:
                torch.mul(prior[channel], weighted, out=inside[channel])
                total[box] += inside[channel]
        # Where all likelihoods underflow, fall back to the network's posterior; background stays
        # background.
        unlikely = total < 1e-12
        lost = unlikely & (foreground > 1e-6)
        share = foreground / total.masked_fill_(unlikely, 1)
        for place in places:
            found[place] *= share[place[1:]]
        if lost.any():
            found[1:, lost] = posteriors[1:, lost]
    return found


def _scan_and_view(image: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Rescale a scan; also return its field of view, None if that is all."""
    unseen = np.isnan(image)
    if not unseen.any():
        scan = rescale_intensities(np.ascontiguousarray(image, dtype=np.float32))
        return torch.from_numpy(scan), None
    filled = np.zeros(image.shape, dtype=np.float32)
    filled[~unseen] = rescale_intensities(image[~unseen])
    return torch.from_numpy(filled), torch.from_numpy(~unseen)


def _deblurred(
    found: Tensor,
    scans: Sequence[Tensor],
    seen: Sequence[Tensor | None],
    sharp: Sequence[Tensor],
    structures: Sequence[Structure],
    spacing_mm: float,
    steps: Sequence[np.ndarray],
) -> tuple[list[list[Mean | None]], list[Tensor]]:
    """Return the mean of each structure in each scan, and the deblurred scans."""
    means, deblurred = [], []
    for scan, view, before, step in zip(scans, seen, sharp, steps, strict=True):
        of_scan = []
        for channels, box in structures:
            probability = _probability(found, channels, box)
            if view is not None:
                probability *= view[box]
            of_scan.append(_drifting_mean(probability, before[box], spacing_mm))
        expected = _expected(scan, found, structures, of_scan)
        sigmas = BLUR * np.maximum(step, 1)
        x, y, z = (blur_matrix(n, float(s)) for n, s in zip(scan.shape, sigmas, strict=True))
        # The expected image plus the residual; outside of the field of view there is none.
        residual = scan - apply_along_axes(expected, (x, y, z))
        if view is not None:
            residual *= view
        deblurred.append(expected + residual)
        means.append(of_scan)
    return means, deblurred


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
        line, inside = (volume.movedim(axis, 0) for volume in (image, brain))
        slopes = line.diff(dim=0)
        known = inside[1:] & inside[:-1]
        # Larger than the rounding errors of a straight line of integers.
        least = FLATNESS_TOLERANCE * slopes[known].abs().mean()
        known = known[1:] & known[:-1]
        straight = slopes.diff(dim=0).abs() < least
        # Noise, or few grey values, give as many zero first differences.
        flat = slopes[1:].abs() < least
        share = straight[known].float().mean() - flat[known].float().mean()
        if share > LEAST_STRAIGHT:
            samples = straight[:-1] & ~straight[1:]
            steps[axis] = 1 / float(samples[known[1:] & known[:-1]].float().mean())
    return steps


def _box(mask: Tensor) -> tuple[slice, ...]:
    """Return the bounding box of a mask, empty for an empty one."""
    return bounding_box(mask.numpy()) or (slice(0, 0),) * 3


def _probability(found: Tensor, channels: list[int], box: tuple[slice, ...]) -> Tensor:
    """Return a structure's posterior, both sides together, in its bounding box."""
    return found[(slice(None), *box)][channels].sum(0)


def _expected(
    scan: Tensor,
    found: Tensor,
    structures: Sequence[Structure],
    means: Sequence[Mean | None],
) -> Tensor:
    """Return the image expected from posteriors and means; background keeps its intensities."""
    expected = found[0] * scan
    for (channels, box), mean in zip(structures, means, strict=True):
        intensity = scan[box] if mean is None else mean()
        expected[box] += _probability(found, channels, box) * intensity
    return expected


def _drifting_mean(probability: Tensor, scan: Tensor, spacing_mm: float) -> Mean | None:
    """Return a function that computes a structure's mean intensity in each voxel.

    To save memory it keeps the mean on a coarse grid. None if the structure is too small.
    """
    sure = functional.threshold(probability, MIN_POSTERIOR, 0.0)
    amount = total_of(sure)
    if amount < MIN_VOXELS:
        return None
    weighted = sure * scan
    overall = total_of(weighted) / amount
    step = max(1, round(COARSE_MM / spacing_mm))
    coarse = [
        _blur(functional.avg_pool3d(part[None, None], step, ceil_mode=True), step * spacing_mm)
        for part in (weighted, sure)
    ]
    # Far from the structure the mean tends to the overall one.
    mean = (coarse[0] + 1e-3 * overall) / (coarse[1] + 1e-3)
    size = [n * step for n in mean.shape[2:]]
    x, y, z = scan.shape
    return lambda: functional.interpolate(mean, size=size, mode='trilinear')[0, 0, :x, :y, :z]


def _blur(volume: Tensor, spacing_mm: float) -> Tensor:
    """Blur ``(1, 1, x, y, z)`` by a Gaussian of `DRIFT_MM`, with zeros outside."""
    for kernel in _kernels(DRIFT_MM / spacing_mm):
        volume = functional.conv3d(volume, kernel, padding=[n // 2 for n in kernel.shape[2:]])
    return volume


def _kernels(sigma: float) -> Iterator[Tensor]:
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        yield kernel.view(shape)
