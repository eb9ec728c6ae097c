"""Likelihood of intensities by a structure's Gaussian, which has one dimension per scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: The likelihood is constant beyond this many standard deviations: lesions, vessels, artefacts.
OUTLIER = 3.0
#: Lower posteriors do not count for a structure's Gaussian.
MIN_POSTERIOR = 0.3
#: Least standard deviation, for intensities in [0, 1].
LEAST_STD = 0.02
#: Values that are summed in float32, before the sums are added in float64.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class Observed:
    """Intensities of a scan in the voxels of a structure.

    Attributes
    ----------
    intensities : (n,) float32 tensor
    mean : (n,) float32 tensor or None
        Mean of the Gaussian in each voxel; None if the scan shows too few of them.
    shown : (n,) bool tensor or None
        Which voxels the scan shows; None for all.
    weight : float
        Exponent of the likelihood.
    """

    intensities: Tensor
    mean: Tensor | None
    shown: Tensor | None
    weight: float

    def part(self, voxels: Tensor) -> Observed:
        """Return some of the voxels, all of them shown."""
        mean = None if self.mean is None else self.mean[voxels]
        return replace(self, intensities=self.intensities[voxels], mean=mean, shown=None)


def likelihood(posterior: Tensor, scans: Sequence[Observed]) -> Tensor:
    """Return the likelihood of the intensities of the scans that show each voxel.

    Parameters
    ----------
    posterior : (n,) float32 tensor
        Of the structure in its voxels; by it the covariance is estimated.
    scans : sequence of Observed
        Of the same voxels.

    Returns
    -------
    (n,) float32 tensor
        Each scan's likelihood is raised to its weight.
    """
    if all(scan.shown is None for scan in scans):
        return _gaussian(posterior, scans)
    views = [
        torch.ones_like(posterior, dtype=torch.bool) if scan.shown is None else scan.shown
        for scan in scans
    ]
    found = torch.ones_like(posterior)
    for which in product((False, True), repeat=len(scans)):
        chosen = [number for number, shown in enumerate(which) if shown]
        here = torch.ones_like(views[0])
        for view, shown in zip(views, which, strict=True):
            here &= view if shown else ~view
        if chosen and here.any():
            # All voxels that these scans show, others or not, have the same Gaussian.
            voxels = torch.stack([views[number] for number in chosen]).all(0).nonzero()[:, 0]
            values = _gaussian(
                posterior[voxels], [scans[number].part(voxels) for number in chosen]
            )
            found[here] = values[here[voxels]]
    return found


def _gaussian(posterior: Tensor, scans: Sequence[Observed]) -> Tensor:
    r"""Return the likelihood of each voxel's intensities, each scan's raised to its weight.

    The covariance is that of all scans together. With weights :math:`w_i` the exponent is
    :math:`-\sum_{ij} \sqrt{w_i w_j} P_{ij} d_i d_j / 2` for residuals d and the inverse P of the
    covariance, and each scan's variance normalises with its own weight: the product of the scans'
    likelihoods if these are not correlated, and the usual Gaussian if all weights are 1.
    """
    known = [
        (scan.intensities - scan.mean, scan.weight) for scan in scans if scan.mean is not None
    ]
    if not known:
        return torch.ones_like(posterior)
    apart, weights = zip(*known, strict=True)
    sure = functional.threshold(posterior, MIN_POSTERIOR, 0.0)
    amount = max(block_sum(sure), 1.0)
    covariance = np.diag([LEAST_STD**2] * len(apart))
    for i, one in enumerate(apart):
        weighted = sure * one
        for j in range(i + 1):
            covariance[i, j] += block_sum(weighted * apart[j]) / amount
            covariance[j, i] = covariance[i, j]
    variances = covariance.diagonal()
    correlation = covariance / np.sqrt(np.outer(variances, variances))
    roots = np.sqrt(weights)
    precision = np.linalg.inv(covariance) * np.outer(roots, roots)
    total = float(np.sum(weights))
    log_size = float(np.dot(weights, np.log(2 * math.pi * variances)))
    log_size += total / len(apart) * float(np.linalg.slogdet(correlation)[1])
    exponent = torch.full_like(posterior, -0.5 * log_size)
    for i, one in enumerate(apart):
        for j, other in enumerate(apart[: i + 1]):
            share = precision[i, j] * (0.5 if i == j else 1.0)
            exponent.addcmul_(one, other, value=-float(share))
    return exponent.clamp_(min=-0.5 * (log_size + total * OUTLIER**2)).exp_()


def block_sum(values: Tensor) -> float:
    """Sum blocks, then in float64; the result does not depend on the number of threads."""
    whole = len(values) - len(values) % BLOCK
    blocks = values[:whole].view(-1, BLOCK).sum(1)
    return float(blocks.double().sum() + values[whole:].double().sum())
