"""Let a scan's own intensities say where a border runs that the network has drawn too smooth.

The generative model (paper, section 2.2) turned round, as classical Bayesian segmentation does
(Van Leemput et al. 1999; SAMSEG, Puonti et al. 2016): each structure has a Gaussian of
intensities, whose mean drifts over the brain with the bias field. Here the network's posteriors
are the prior. Means and variances follow from them, new posteriors from those, and again.

A voxel on a border shows both of its sides. So each round computes the image that its posteriors
and means let expect, blurs it as the scanner does, and takes what the scan has beyond that for
evidence (back-projection; Irani & Peleg, CVGIP 53:231, 1991): grey between white and black is then
a border, not a third structure that happens to be grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..linear import apply_along_axes, blur_matrix
from .preprocess import rescale_intensities

#: Slices of the part of the image where a structure may be.
Box = tuple[slice, slice, slice]
#: Computes a structure's mean intensity in each voxel of its box.
Mean = Callable[[], Tensor]

ITERATIONS = 4
#: Standard deviations beyond which an intensity is no less likely: lesions, vessels, artefacts.
OUTLIER = 3.0
#: Where a structure's posterior is lower it stays out of the question.
LEAST_POSTERIOR = 1e-4
#: Posteriors that count for the intensities of a structure, and how many of its voxels are needed.
MIN_POSTERIOR = 0.3
MIN_VOXELS = 50
#: Distance over which a structure's mean intensity may drift, and the grid it is computed on.
DRIFT_MM = 20.0
COARSE_MM = 4.0
#: Standard deviation of a scanner's blur, in its own voxels.
BLUR = 0.5
#: Least standard deviation, of intensities in [0, 1].
LEAST_STD = 0.02
#: Second differences that count as none, as a share of the mean first one; and how many more of
#: them than of first ones there are where a scan was interpolated: none to 0.1 in scans that were
#: not, a third or more in those that were.
FLATNESS_TOLERANCE = 0.1
LEAST_STRAIGHT = 0.2


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
        Channel 0 is background, which stays as probable as it is. They sum to 1.
    image : (x, y, z) array
        The scan on the same grid.
    spacing_mm : float
        Of that grid.
    mirror : (n_channels,) sequence of int
        Channel permutation of a left/right flip: both sides of a structure share a Gaussian.
    weight : float
        Exponent of the likelihood: 0 leaves the network's posteriors, 1 takes the intensities of
        neighbouring voxels for independent. Coarse scans get less, see :func:`independence`.
    steps : (3,) array
        Spacing of the scan's own voxels divided by that of the grid, see :func:`own_steps`.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        Sums to 1.
    """
    scan = torch.from_numpy(rescale_intensities(np.ascontiguousarray(image, dtype=np.float32)))
    groups = [sorted({c, int(mirror[c])}) for c in range(1, len(mirror)) if c <= mirror[c]]
    structures = [
        (channels, _box(posteriors[channels].amax(0) >= LEAST_POSTERIOR)) for channels in groups
    ]
    places = [(c, *box) for channels, box in structures for c in channels]
    weight *= independence(steps)
    sigmas = BLUR * np.maximum(steps, 1)
    x, y, z = (blur_matrix(n, float(s)) for n, s in zip(scan.shape, sigmas, strict=True))
    foreground = 1 - posteriors[0]
    found = torch.zeros_like(posteriors)
    found[0] = posteriors[0]
    for place in places:
        found[place] = posteriors[place]
    sharp = scan
    for _ in range(ITERATIONS):
        means = [
            _drifting_mean(_probability(found, *one), sharp[one[1]], spacing_mm)
            for one in structures
        ]
        expected = _expected(scan, found, structures, means)
        # The scan without its blur: what is expected, and what it has beyond that.
        sharp = expected + scan - apply_along_axes(expected, (x, y, z))
        total = torch.zeros_like(scan)
        for (channels, box), mean in zip(structures, means, strict=True):
            prior, inside = (volume[(slice(None), *box)] for volume in (posteriors, found))
            likelihood = _likelihood(inside[channels].sum(0), sharp[box], mean, weight)
            for channel in channels:
                torch.mul(prior[channel], likelihood, out=inside[channel])
                total[box] += inside[channel]
        # Where nothing is likely the network keeps its say; where there is nothing it has none.
        unlikely = total < 1e-12
        lost = unlikely & (foreground > 1e-6)
        share = foreground / total.masked_fill_(unlikely, 1)
        for place in places:
            found[place] *= share[place[1:]]
        if lost.any():
            found[1:, lost] = posteriors[1:, lost]
    return found


def independence(steps: np.ndarray) -> float:
    """Return how far the likelihood of a scan on the network grid is to be trusted.

    A scan with coarser voxels than the grid says the same several times over. The square root of
    the share of voxels that it has measured was best on synthetic scans with slices of 5 mm.

    Parameters
    ----------
    steps : (3,) array
        Spacing of the scan's own voxels divided by that of the grid.

    Returns
    -------
    float
        1 where the scan is as fine as the grid, less where it is coarser.
    """
    return float(np.prod(np.maximum(steps, 1)) ** -0.5)


def own_steps(steps: np.ndarray, image: np.ndarray, brain: Tensor) -> np.ndarray:
    """Return the spacing of a scan's own voxels, which its header may not know any more.

    Parameters
    ----------
    steps : (3,) array
        Spacing of the voxels in its file divided by that of the grid.
    image : (x, y, z) array
        The scan on the grid.
    brain : (x, y, z) bool tensor
        See :func:`interpolated_steps`.

    Returns
    -------
    (3,) array
        Divided by the spacing of the grid.
    """
    # A scan that was interpolated twice shows the coarser of both.
    return np.maximum(steps, interpolated_steps(torch.from_numpy(image), brain))


def interpolated_steps(image: Tensor, brain: Tensor) -> np.ndarray:
    """Find out from how coarse a grid a scan was interpolated linearly.

    Between two samples it is straight: its second differences vanish but where there are samples.

    Parameters
    ----------
    image : (x, y, z) tensor
    brain : (x, y, z) bool tensor
        Where to look; air is straight without having been interpolated.

    Returns
    -------
    (3,) array
        Distance of the samples in voxels, per axis; 1 where nothing was interpolated, or not
        linearly, or from less than two voxels.
    """
    steps = np.ones(3)
    for axis in range(3):
        line, inside = (volume.movedim(axis, 0) for volume in (image, brain))
        slopes = line.diff(dim=0)
        known = inside[1:] & inside[:-1]
        # More than rounding to integers makes of a straight line.
        least = FLATNESS_TOLERANCE * slopes[known].abs().mean()
        known = known[1:] & known[:-1]
        straight = slopes.diff(dim=0).abs() < least
        # Noise and few grey values give as many voxels without a slope.
        flat = slopes[1:].abs() < least
        share = straight[known].float().mean() - flat[known].float().mean()
        if share > LEAST_STRAIGHT:
            samples = straight[:-1] & ~straight[1:]
            steps[axis] = 1 / float(samples[known[1:] & known[:-1]].float().mean())
    return steps


def _box(mask: Tensor) -> Box:
    """Return the smallest box that holds all that is true."""
    sides = []
    for axis in range(3):
        across = [other for other in range(3) if other != axis]
        seen = mask.any(across[1]).any(across[0]).nonzero()
        sides.append(slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0))
    return sides[0], sides[1], sides[2]


def _probability(found: Tensor, channels: list[int], box: Box) -> Tensor:
    """Return the posteriors of a structure, both sides together, in its box."""
    return found[(slice(None), *box)][channels].sum(0)


def _expected(
    scan: Tensor,
    found: Tensor,
    structures: Sequence[tuple[list[int], Box]],
    means: Sequence[Mean | None],
) -> Tensor:
    """Return the image that posteriors and means let expect; background is what it is."""
    expected = found[0] * scan
    for (channels, box), mean in zip(structures, means, strict=True):
        shown = scan[box] if mean is None else mean()
        expected[box] += _probability(found, channels, box) * shown
    return expected


def _drifting_mean(probability: Tensor, scan: Tensor, spacing_mm: float) -> Mean | None:
    """Return what computes a structure's mean intensity, voxel by voxel; None if it is too small.

    What it keeps is on a coarse grid.
    """
    sure = functional.threshold(probability, MIN_POSTERIOR, 0.0)
    amount = _sum(sure)
    if amount < MIN_VOXELS:
        return None
    weighted = sure * scan
    overall = _sum(weighted) / amount
    step = max(1, round(COARSE_MM / spacing_mm))
    coarse = [
        _blur(functional.avg_pool3d(part[None, None], step, ceil_mode=True), step * spacing_mm)
        for part in (weighted, sure)
    ]
    # Far from the structure its overall mean takes over.
    mean = (coarse[0] + 1e-3 * overall) / (coarse[1] + 1e-3)
    size = [n * step for n in mean.shape[2:]]
    x, y, z = scan.shape
    return lambda: functional.interpolate(mean, size=size, mode='trilinear')[0, 0, :x, :y, :z]


def _likelihood(probability: Tensor, scan: Tensor, mean: Mean | None, weight: float) -> Tensor:
    """Return each intensity's density under a structure's drifting Gaussian, to the `weight`."""
    if mean is None:
        return torch.ones_like(scan)
    squares = (scan - mean()).square_()
    sure = functional.threshold(probability, MIN_POSTERIOR, 0.0)
    variance = _sum(sure * squares) / _sum(sure) + LEAST_STD**2
    squares.clamp_(max=variance * OUTLIER**2).mul_(-0.5 * weight / variance).exp_()
    return squares.mul_((2 * math.pi * variance) ** (-0.5 * weight))


def _sum(volume: Tensor) -> float:
    """Sum row by row, so that the number of threads does not matter, then in float64."""
    return float(volume.sum(-1).double().sum())


def _blur(volume: Tensor, spacing_mm: float) -> Tensor:
    """Blur ``(1, 1, x, y, z)`` by a Gaussian of `DRIFT_MM`; nothing lies outside."""
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
