"""Deform scans of one head onto their mean: how the head has changed between them.

In the space halfway, every scan gets a displacement field, of cubic B-splines, so that all scans
look alike. Gauss-Newton steps minimise the squared difference of each scan to the mean of all, in
units of the noise, plus the energy of the displacement (:mod:`.deformation_prior`); with the
gradient of the mean, one system of equations serves all scans, whose displacements add up to zero.
No scan is the reference (compare Ashburner and Ridgway, Frontiers in Neuroscience 6:197, 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.interpolate import BSpline
from torch import Tensor

from ..images.geometry import Grid, spacing_mm
from ..images.resampling import resample
from ..linear import apply_along_axes, blur_matrix
from ..synth.deform import sample
from .deformation_prior import DeformationPrior, deformation_prior
from .match_intensities import common_scale, deviation
from .register_intensities import Image, bias_field
from .rigid_resample import sample as sample_rigid
from .rigid_resample import sample_image, voxel_indices, voxel_places
from .soft_segmentation import SoftSegmentation

#: Spacing of the grid that scans are compared on, and the blur before they are sampled there.
SPACING_MM, BLUR_MM = 2.0, 0.8
#: Compared is the brain, and what is nearer to it than this.
AROUND_MM = 4.0
#: Fixed-point steps that invert a displacement field of a few tenths of a voxel.
INVERSION_STEPS = 5
#: How often scans are brought to one scale and deformed onto their mean.
ROUNDS = 2
#: Voxels between the nodes of the B-splines.
STEP = 2
#: Steps of Gauss-Newton at most; those that move less than this, in voxels, are the last.
STEPS, CONVERGED = 3, 0.015
#: Steps of conjugate gradients in each of them, and the relative residual that ends them.
INNER_STEPS, RESIDUAL = 30, 1e-3
#: Least standard deviation of the noise, for intensities of about 1 in the brain; differences
#: beyond this many standard deviations lose weight.
LEAST_NOISE, OUTLIER = 0.005, 3.0


@torch.inference_mode()
def displacements_of(
    priors: Sequence[SoftSegmentation],
    images: Sequence[Image],
    moves: Sequence[np.ndarray],
    grid: Grid,
) -> Tensor:
    """Find where the points of the mean of scans of one contrast lie in each of them.

    Parameters
    ----------
    priors : sequence of SoftSegmentation
        The network's posteriors of each scan.
    images : sequence of (array, array)
        The scans and their affines.
    moves : sequence of (4, 4) arrays
        For each scan, maps positions in the space halfway to positions in the scan.
    grid : Grid
        Grid of `SPACING_MM` in the space halfway.

    Returns
    -------
    (n_scans, 3, x, y, z) float32 tensor
        See :func:`displacements`.

    Raises
    ------
    UnlikeError
        If the scans do not look alike.
    """
    posteriors = _mean_posteriors(priors, moves, grid)
    brain = 1 - posteriors[0]
    reach = round(AROUND_MM / SPACING_MM)
    near = torch.from_numpy(ndimage.binary_dilation((brain > 0.5).numpy(), iterations=reach))
    seen = []
    for (data, affine), move in zip(images, moves, strict=True):
        volume = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        blurs = [
            blur_matrix(n, BLUR_MM / float(step))
            for n, step in zip(volume.shape, spacing_mm(affine), strict=True)
        ]
        to_scan = np.linalg.inv(affine) @ move @ grid.affine
        seen.append(sample_image(resample(volume, blurs), to_scan, grid.shape))
        near &= ~seen[-1].isnan()
    flat = []
    for image in seen:
        image = image.nan_to_num_(0.0)
        image = image / bias_field(image, posteriors[1:] * near, SPACING_MM)
        flat.append(image / image[(brain > 0.9) & near].mean().clamp(min=1e-6))
    return _follow(torch.stack(flat), near.float(), posteriors)


def _follow(images: Tensor, near: Tensor, posteriors: Tensor) -> Tensor:
    """Find displacements and what brings the scans to one scale, in turn.

    Where borders have moved, scans differ, which is taken for a difference of bias fields in part;
    of scans that were deformed onto their mean, much less.
    """
    prior = deformation_prior(posteriors, spline_matrices(near.shape), STEP)
    found = torch.zeros(len(images), 3, *near.shape)
    for _ in range(ROUNDS):
        seen = _deformed(images, found)
        gain, offset = common_scale(seen, posteriors, near, SPACING_MM)
        found = displacements(images * gain + offset, near, prior)
    return found


def _deformed(images: Tensor, fields: Iterable[Tensor]) -> Tensor:
    """Return scans where their displacement fields lead to from each point of the mean."""
    places = voxel_indices(images.shape[1:]).movedim(-1, 0)
    return torch.stack([
        sample(image[None], places + field)[0]
        for image, field in zip(images, fields, strict=True)
    ])  # fmt: skip


def _mean_posteriors(
    priors: Sequence[SoftSegmentation], moves: Sequence[np.ndarray], grid: Grid
) -> Tensor:
    """Average the posteriors of scans in the space halfway."""
    mean = torch.zeros(len(priors[0].posteriors), *grid.shape)
    for prior, move in zip(priors, moves, strict=True):
        matrix = np.linalg.inv(prior.affine) @ move @ grid.affine
        for channel, volume in zip(mean[1:], prior.posteriors[1:], strict=True):
            box, part = sample_rigid(volume, matrix, grid.shape)
            channel[box].add_(part, alpha=1 / (255 * len(priors)))
    mean[0] = 1 - mean.sum(0)
    return mean.clamp_(min=0)


def between_scans(
    own: Tensor, other: Tensor, matrix: np.ndarray, shape: tuple[int, ...]
) -> Tensor:
    """Return by how much points of one scan are displaced in another one.

    Parameters
    ----------
    own, other : (3, x, y, z) tensor
        Displacement fields of both, see :func:`displacements`.
    matrix : (4, 4) array
        Maps voxel indices of a grid in the scan to those of the grid halfway.
    shape : (3,) tuple of int
        Shape of the grid in the scan.

    Returns
    -------
    (3, i, j, k) float32 tensor
        Displacement beside the rigid transform, on the grid in the scan and in voxels of the grid
        halfway.
    """
    places = voxel_indices(own.shape[1:]).movedim(-1, 0)
    # The point x of the mean that the scan shows at the place p: x + own(x) = p.
    mean = places
    for _ in range(INVERSION_STEPS):
        mean = places - sample(own, mean)
    moved = mean + sample(other, mean) - places
    return sample(moved, voxel_places(matrix, tuple(slice(0, n) for n in shape)))


@torch.inference_mode()
def displacements(images: Tensor, near: Tensor, prior: DeformationPrior) -> Tensor:
    """Find where the points of the mean of scans lie in each of them.

    Parameters
    ----------
    images : (n_images, x, y, z) float32 tensor
        Scans of the same contrast on one grid and on one scale (:mod:`.match_intensities`).
    near : (x, y, z) float32 tensor
        Where to compare them: 1 in the brain and around it, 0 elsewhere.
    prior : DeformationPrior
        Distribution of the nodes of a displacement field, with `STEP` voxels between them.

    Returns
    -------
    (n_images, 3, x, y, z) float32 tensor
        Displacement u in voxels: the point x of the mean lies at x + u in the scan. Over the scans
        u adds up to zero.
    """
    x, y, z = splines = spline_matrices(near.shape)
    adjoint = x.T.contiguous(), y.T.contiguous(), z.T.contiguous()
    nodes = torch.zeros(len(images), 3, *(len(part) for part in adjoint))
    for _ in range(STEPS):
        seen = _deformed(images, (apply_along_axes(one, splines) for one in nodes))
        apart = seen - seen.mean(0)
        weight = _weight(apart, near)
        slopes = torch.stack(torch.gradient(seen.mean(0)))

        def normal(nodes: Tensor, weight: Tensor = weight, slopes: Tensor = slopes) -> Tensor:
            along = (slopes * apply_along_axes(nodes, splines)).sum(0)
            return apply_along_axes(slopes * (weight * along), adjoint) + prior.gradient(nodes)

        changes = torch.stack([
            _solve(
                normal, -apply_along_axes(slopes * (weight * one), adjoint) - prior.gradient(own)
            )
            for one, own in zip(apart, nodes, strict=True)
        ])  # fmt: skip
        # They add up to zero but for what is left of the equations.
        changes -= changes.mean(0)
        nodes += changes
        if float(changes.abs().max()) < CONVERGED:
            break
    return torch.stack([apply_along_axes(one, splines) for one in nodes])


def _weight(apart: Tensor, near: Tensor) -> Tensor:
    """Return the weight of each voxel: one over the variance of the noise, less for outliers."""
    n = len(apart)
    total = sum(deviation(one, near) ** 2 for one in apart)
    variance = max(total / (n - 1), LEAST_NOISE**2)
    excess = apart.square().sum(0) / ((n - 1) * OUTLIER**2 * variance)
    return near / (variance * (1 + excess))


def _solve(matrix: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solve linear equations by conjugate gradients (Hestenes and Stiefel, 1952)."""
    found, residual = torch.zeros_like(right), right.clone()
    direction, squares = right.clone(), [float(right.square().sum())]
    for _ in range(INNER_STEPS):
        if squares[-1] <= RESIDUAL * squares[0]:
            break
        image = matrix(direction)
        size = squares[-1] / float((direction * image).sum())
        found.add_(direction, alpha=size)
        residual.sub_(image, alpha=size)
        squares.append(float(residual.square().sum()))
        direction.mul_(squares[-1] / squares[-2]).add_(residual)
    return found


def spline_matrices(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices from nodes to voxels along all axes."""
    x, y, z = (_splines(n) for n in shape)
    return x, y, z


def _splines(size: int) -> Tensor:
    """Return the matrix from the nodes of cubic B-splines, every `STEP` voxels, to voxels."""
    n_nodes = (size - 1) // STEP + 4
    knots = STEP * (np.arange(n_nodes + 4) - 3.0)
    matrix = BSpline.design_matrix(np.arange(float(size)), knots, 3)
    return torch.from_numpy(matrix.toarray()).float()
