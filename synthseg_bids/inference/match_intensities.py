"""Bring the intensities of several scans of one head and one contrast to a common scale.

Scans of two visits differ by gain, offset and bias field, not only by what has changed in the
head. A straight line through the mean intensities of structures corrects the former: it keeps
partial volume what it is, which a curve would not. What is left and smooth is a difference of bias
fields (Lewis and Fox, NeuroImage 23:75, 2004).
"""

from __future__ import annotations

from collections.abc import Sequence

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


def matched(
    images: Sequence[Tensor], posteriors: Tensor, near: Tensor, spacing_mm: float
) -> Tensor:
    """Bring scans to a common scale, the mean of their own.

    Parameters
    ----------
    images : sequence of (x, y, z) float32 tensors
        Scans on one grid, whose mean in the brain is about 1.
    posteriors : (n_channels, x, y, z) float32 tensor
        Probabilities of the head's structures, background first.
    near : (x, y, z) float32 tensor
        1 in the brain and around it, 0 elsewhere.
    spacing_mm : float
        Voxel size of the grid.

    Returns
    -------
    (n_images, x, y, z) float32 tensor

    Raises
    ------
    UnlikeError
        If the scans do not look alike: their structures are not brighter and darker in the same
        order.
    """
    found = torch.stack([*images])
    pure = posteriors[1:] * (posteriors[1:] > PURE)
    sizes = pure.sum((1, 2, 3))
    known = sizes > MIN_VOXELS
    pure, sizes = pure[known].flatten(1), sizes[known]
    blurs = [blur_matrix(n, DRIFT_MM / spacing_mm) for n in near.shape]
    blur = blurs[0], blurs[1], blurs[2]
    for _ in range(TURNS):
        means = (pure @ found.flatten(1).T / sizes[:, None]).T.double().numpy()
        for image, (slope, shift) in zip(found, _lines(means, sizes.sqrt().numpy()), strict=True):
            image.mul_(slope).add_(shift)
        logs = found.clamp(min=LEAST).log_()
        steep = sum(slope.square() for slope in torch.gradient(logs.mean(0)))
        for image, apart in zip(found, logs.mean(0) - logs, strict=True):
            noise = max(deviation(apart, near), 1e-6)
            # At borders scans differ where these have moved.
            weight = near / (1 + apart.square() / (OUTLIER * noise) ** 2) / (1 + steep / noise**2)
            above, below = apply_along_axes(torch.stack([weight * apart, weight]), blur)
            image.mul_((above / (below + 1e-3)).exp_())
    return found


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


def _lines(means: np.ndarray, weights: np.ndarray) -> list[tuple[float, float]]:
    """Return slope and shift of each scan's line to the mean of all scans.

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
    return lines
