"""Bring the intensities of several scans of one head and one contrast to a common scale.

Scans of two visits differ by gain, offset and bias field, not only by what has changed in the
head. A straight line through the mean intensities of structures corrects the former: it keeps
partial volume what it is, which a curve would not. What is left and smooth is a difference of bias
fields (Lewis and Fox, NeuroImage 23:75, 2004).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..linear import apply_along_axes, blur_matrix

#: Posterior above which a voxel counts for the mean intensity of a structure, and the number of
#: such voxels that a structure must have.
PURE, MIN_VOXELS = 0.9, 30
#: Smoothness of the difference of bias fields in mm, and how often it and the lines are estimated.
#: Chosen with the strain on generated visits of two heads of the training.
DRIFT_MM, TURNS = 5.0, 3
#: Residuals beyond this many standard deviations lose weight: they are differences of the heads.
OUTLIER = 2.0
#: Intensities count as this at least, in units of their mean in the brain, for logarithms.
LEAST = 0.03
#: Structures of the same contrast have mean intensities that correlate by more than this.
LEAST_CORRELATION = 0.9


class UnlikeError(ValueError):
    """Scans that should have the same contrast do not look alike."""


def common_scale(
    images: Tensor, posteriors: Tensor, near: Tensor, spacing_mm: float
) -> tuple[Tensor, Tensor]:
    """Find what brings scans to a common scale, the mean of their own.

    Parameters
    ----------
    images : (n_images, x, y, z) float32 tensor
        Scans on one grid, whose mean in the brain is about 1.
    posteriors : (n_channels, x, y, z) float32 tensor
        Probabilities of the head's structures, background first.
    near : (x, y, z) float32 tensor
        1 in the brain and around it, 0 elsewhere.
    spacing_mm : float
        Voxel size of the grid.

    Returns
    -------
    gain, offset : (n_images, x, y, z) float32 tensor
        The scans times the gain plus the offset look alike. Both are smooth.

    Raises
    ------
    UnlikeError
        If the scans do not look alike: their structures are not brighter and darker in the same
        order.
    """
    pure = posteriors[1:] * (posteriors[1:] > PURE)
    sizes = pure.sum((1, 2, 3))
    known = sizes > MIN_VOXELS
    pure, sizes = pure[known].flatten(1), sizes[known]
    blurs = [blur_matrix(n, DRIFT_MM / spacing_mm) for n in near.shape]
    blur = blurs[0], blurs[1], blurs[2]
    gain, offset = torch.ones_like(images), torch.zeros_like(images)
    for _ in range(TURNS):
        found = images * gain + offset
        means = (pure @ found.flatten(1).T / sizes[:, None]).T.double().numpy()
        slopes, shifts = torch.from_numpy(_lines(means, sizes.sqrt().numpy())).float().T
        slopes, shifts = slopes.view(-1, 1, 1, 1), shifts.view(-1, 1, 1, 1)
        fields = _drift(found * slopes + shifts, near, blur)
        gain, offset = gain * slopes * fields, (offset * slopes + shifts) * fields
    return gain, offset


def _drift(images: Tensor, near: Tensor, blur: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the field for each scan that makes its bias field that of the others."""
    logs = images.clamp(min=LEAST).log_()
    steep = sum(slope.square() for slope in torch.gradient(logs.mean(0)))
    # The darker a voxel, the noisier its logarithm; bright fluid counts no more than tissue.
    bright = images.mean(0).clamp(0, 1).square()
    fields = []
    for apart in logs.mean(0) - logs:
        noise = max(deviation(apart, near), 1e-6)
        # At borders scans differ where these have moved.
        weight = near * bright / (1 + apart.square() / (OUTLIER * noise) ** 2)
        weight /= 1 + steep / noise**2
        above, below = apply_along_axes(torch.stack([weight * apart, weight]), blur)
        fields.append((above / (below + 1e-3)).exp_())
    return torch.stack(fields)


def deviation(apart: Tensor, near: Tensor) -> float:
    """Return the standard deviation of differences, of which up to half can be outliers.

    Parameters
    ----------
    apart : (x, y, z) tensor
        Differences, of mean 0.
    near : (x, y, z) tensor
        Above 0 where they count.
    """
    return 1.4826 * float(apart[near > 0].abs().median())


def _lines(means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the (n_images, 2) slope and shift of each scan's line to the mean of all scans.

    The slope is that of the standard deviations, which is the same in both directions.
    """
    if means.shape[1] < 2:
        raise UnlikeError('fewer than two structures are large enough')
    target = means.mean(0)
    centre = np.average(target, weights=weights)
    lines = []
    for own in means:
        middle = np.average(own, weights=weights)
        squares = (weights * (own - middle) ** 2).sum(), (weights * (target - centre) ** 2).sum()
        product = (weights * (own - middle) * (target - centre)).sum()
        if product <= LEAST_CORRELATION * np.sqrt(squares[0] * squares[1]):
            raise UnlikeError('structures differ in contrast')
        slope = float(np.sqrt(squares[1] / squares[0]))
        lines.append((slope, float(centre - slope * middle)))
    return np.array(lines)
