"""Likelihood of the intensities of a structure in one scan, or in several together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: Computes a structure's mean intensity in each voxel of its bounding box.
Mean = Callable[[], Tensor]
#: The likelihood is constant beyond this many standard deviations: lesions, vessels, artefacts.
OUTLIER = 3.0
#: Lower posteriors do not count for a structure's Gaussian.
MIN_POSTERIOR = 0.3
#: Least standard deviation, for intensities in [0, 1].
LEAST_STD = 0.02


def likelihood(
    probability: Tensor,
    scans: Sequence[Tensor],
    seen: Sequence[Tensor | None],
    means: Sequence[Mean | None],
    weights: Sequence[float],
) -> Tensor:
    """Return the likelihood of the intensities of a structure in its bounding box.

    Parameters
    ----------
    probability : (x, y, z) tensor
        Posterior of the structure, which estimates the covariance.
    scans : sequence of (x, y, z) tensors
    seen : sequence of (x, y, z) bool tensors, or None
        Field of view of each scan; None if that is all. Only scans that show a voxel count in it.
    means : sequence of Mean, or None
        The structure's mean in each scan; None if that does not show enough of it.
    weights : sequence of float
        Exponent of each scan's likelihood.

    Returns
    -------
    (x, y, z) tensor
    """
    if all(view is None for view in seen):
        return _gaussian(probability, scans, means, weights)
    views = [torch.ones_like(scan, dtype=torch.bool) if view is None else view
             for scan, view in zip(scans, seen, strict=True)]  # fmt: skip
    found = torch.ones_like(probability)
    for shown in product((False, True), repeat=len(scans)):
        here = torch.ones_like(views[0])
        for view, yes in zip(views, shown, strict=True):
            here &= view if yes else ~view
        if not any(shown) or not here.any():
            continue
        chosen = [number for number, yes in enumerate(shown) if yes]
        together = torch.stack([views[number] for number in chosen]).all(0)
        part = _gaussian(
            probability * together,
            [scans[number] for number in chosen],
            [means[number] for number in chosen],
            [weights[number] for number in chosen],
        )
        found[here] = part[here]
    return found


def _gaussian(
    probability: Tensor,
    scans: Sequence[Tensor],
    means: Sequence[Mean | None],
    weights: Sequence[float],
) -> Tensor:
    r"""Return the likelihood of each voxel's intensities, each scan's raised to its weight.

    The covariance is that of all scans together. With weights :math:`w_i` the exponent is
    :math:`-\sum_{ij} \sqrt{w_i w_j} P_{ij} d_i d_j / 2` for residuals d and the inverse P of the
    covariance, and each scan's variance normalises with its own weight: the product of the scans'
    likelihoods if these are not correlated, and the usual Gaussian if all weights are 1.
    """
    known = [
        (scan - mean(), weight)
        for scan, mean, weight in zip(scans, means, weights, strict=True)
        if mean is not None
    ]
    if not known:
        return torch.ones_like(probability)
    apart, weights = zip(*known, strict=True)
    sure = functional.threshold(probability, MIN_POSTERIOR, 0.0)
    amount = max(total_of(sure), 1.0)
    covariance = np.diag([LEAST_STD**2] * len(apart))
    for i, one in enumerate(apart):
        weighted = sure * one
        for j in range(i + 1):
            covariance[i, j] += total_of(weighted * apart[j]) / amount
            covariance[j, i] = covariance[i, j]
    variances = covariance.diagonal()
    correlation = covariance / np.sqrt(np.outer(variances, variances))
    roots = np.sqrt(weights)
    precision = np.linalg.inv(covariance) * np.outer(roots, roots)
    distance = torch.zeros_like(probability)
    for i, one in enumerate(apart):
        other = sum(float(precision[i, j]) * apart[j] for j in range(len(apart)) if j != i)
        distance += one * (one * float(precision[i, i]) + other)
    total = float(np.sum(weights))
    distance.clamp_(max=total * OUTLIER**2).mul_(-0.5).exp_()
    log_size = float(np.dot(weights, np.log(2 * math.pi * variances)))
    log_size += total / len(apart) * float(np.linalg.slogdet(correlation)[1])
    return distance.mul_(math.exp(-0.5 * log_size))


def total_of(volume: Tensor) -> float:
    """Sum rows, then in float64; the result does not depend on the number of threads."""
    return float(volume.sum(-1).double().sum())
