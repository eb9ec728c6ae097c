"""What is known of the changes of a head before its scans are compared.

Tissue is strained little and smoothly, and structures change their volume as a whole. The former
alone pulls every change of volume towards zero, the more the noisier the scans are. So a
displacement is the sum of a field of random strain and, for each structure, of a random share of
the field that changes its volume with the least strain: evenly inside of it, with no change of
volume elsewhere. Both are normal, and so is their sum, whose precision matrix is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor

from ..linear import apply_along_axes
from .options import STRAIN, VOLUME_CHANGE

#: Structures that are smaller than this share of all have no change of volume of their own.
LEAST_SHARE = 1e-4


@dataclass(frozen=True, eq=False)
class DeformationPrior:
    """Normal distribution of the nodes of a displacement field, of mean zero.

    Attributes
    ----------
    stiffness : float
        Precision of the difference between two neighbouring nodes.
    volumes : (n_structures, 3 * n_nodes) float32 tensor
        Relative change of volume of each structure for each coordinate of each node, in units of
        the variance of this change by random strain.
    relief : (n_structures, n_structures) float32 tensor
        By how much the precision is smaller for changes of volume.
    """

    stiffness: float
    volumes: Tensor
    relief: Tensor

    def gradient(self, nodes: Tensor) -> Tensor:
        """Return the precision matrix times a displacement field.

        Parameters
        ----------
        nodes : (3, i, j, k) tensor

        Returns
        -------
        (3, i, j, k) tensor
            Gradient of the energy, minus the logarithm of the density.
        """
        found = torch.zeros_like(nodes)
        for axis in (1, 2, 3):
            n = nodes.shape[axis] - 1
            apart = nodes.diff(dim=axis) * self.stiffness
            found.narrow(axis, 1, n).add_(apart)
            found.narrow(axis, 0, n).sub_(apart)
        shares = self.relief @ (self.volumes @ nodes.flatten())
        return found.sub_((shares @ self.volumes).view_as(nodes))


def deformation_prior(
    posteriors: Tensor,
    splines: tuple[Tensor, Tensor, Tensor],
    step: int,
    strain: float = STRAIN,
    volume_change: float = VOLUME_CHANGE,
) -> DeformationPrior:
    """Return the distribution of displacement fields of a head.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
        Probabilities of the head's structures, background first.
    splines : three tensors
        Matrices from the nodes of each axis to its voxels.
    step : int
        Voxels between nodes.
    strain : float
        Standard deviation of the strain between neighbouring nodes.
    volume_change : float
        Standard deviation of the relative change of volume that a structure has beside it.

    Returns
    -------
    DeformationPrior
        Its precision follows from the Woodbury identity: with the precision R of the strain, the
        linear changes of volume L, their variances by strain D = diag(L R^-1 L') and the fields
        of least strain V = R^-1 L' D^-1, the covariance is R^-1 + s^2 V V'.
    """
    stiffness = 1 / (strain * step) ** 2
    x, y, z = (matrix.T.contiguous() for matrix in splines)
    sizes = posteriors.sum((1, 2, 3))
    least = LEAST_SHARE * float(sizes[1:].sum())
    changes = torch.stack([
        # The volume of a structure whose points x lie at x + u is that of p (1 + div u).
        -apply_along_axes(torch.stack(torch.gradient(part)), (x, y, z)) / size
        for part, size in zip(posteriors[1:], sizes[1:], strict=True)
        if size > least
    ])  # fmt: skip
    # Displacements of the whole head change no volume, also of what the field of view cuts off.
    changes -= changes.mean((2, 3, 4), keepdim=True)
    fields = _solve_strain(changes, stiffness).flatten(1).double()
    changes = changes.flatten(1).double()
    covariance = changes @ fields.T
    scale = covariance.diagonal()
    scaled = covariance / scale[:, None] / scale
    unit = torch.eye(len(scale), dtype=torch.float64)
    relief = torch.linalg.inv(unit / volume_change**2 + scaled)
    return DeformationPrior(stiffness, (changes / scale[:, None]).float(), relief.float())


def _solve_strain(right: Tensor, stiffness: float) -> Tensor:
    """Divide by the precision of the strain, which the cosine transform makes diagonal.

    Displacements of the head as a whole are not strain: they are left out.
    """
    total = torch.zeros(())
    for axis, n in enumerate(right.shape[2:]):
        waves = 2 - 2 * torch.cos(torch.pi * torch.arange(n, dtype=torch.float64) / n)
        total = total + waves.view([-1 if axis == other else 1 for other in range(3)])
    total[0, 0, 0] = torch.inf
    axes = (2, 3, 4)
    waves = fft.dctn(right.numpy(), axes=axes, norm='ortho') / (stiffness * total.numpy())
    return torch.from_numpy(np.asarray(fft.idctn(waves, axes=axes, norm='ortho')))
