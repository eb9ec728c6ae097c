"""Training losses on logits and integer targets.

Targets are channel numbers, not one-hot volumes: at 33 channels a one-hot target is the largest
tensor of a training step, and every sum it enters can be had by indexing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _rows(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as (batch, voxels, channels) in float32 and targets as (batch, voxels)."""
    rows = logits.movedim(1, -1).flatten(1, 3).float()
    return rows, target.flatten(1).long()


def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Average soft Dice loss and cross-entropy.

    The Dice loss is one minus the mean over scans and channels of
    ``2 sum(p g) / (sum(p**2) + sum(g**2))`` (MIDL 2020 paper, section 2.4; background included,
    as in its public implementation).

    Parameters
    ----------
    logits : (batch, channels, x, y, z) tensor
    target : (batch, x, y, z) integer tensor
        Channel of each voxel.

    Returns
    -------
    dice_loss, cross_entropy : 0-d tensors
        In [0, 1], and in [0, inf).
    """
    rows, target = _rows(logits, target)
    batch, _, channels = rows.shape
    log_p = rows.log_softmax(-1)
    picked = log_p.gather(-1, target[..., None])[..., 0]
    size_p = log_p.mul(2).exp().sum(1)
    zeros = torch.zeros(batch, channels, device=rows.device)
    overlap = zeros.scatter_add(1, target, picked.exp())
    size_g = zeros.scatter_add(1, target, torch.ones_like(picked))
    dice = (2 * overlap + 1e-7) / (size_p + size_g + 1e-7)
    return 1 - dice.mean(), -picked.mean()


def wl2(logits: Tensor, target: Tensor, margin: float = 5) -> Tensor:
    """Weighted squared distance of the logits from +-margin, the reference's warm-up loss.

    Background voxels have (almost) no weight.

    Parameters
    ----------
    logits : (batch, channels, x, y, z) tensor
    target : (batch, x, y, z) integer tensor
    margin : float

    Returns
    -------
    0-d tensor
    """
    rows, target = _rows(logits, target)
    # sum over channels of (z - m (2 g - 1))^2, expanded so that no one-hot volume is needed
    at_target = rows.gather(-1, target[..., None])[..., 0]
    squared = (rows + margin).square().sum(-1) - 4 * margin * at_target
    weight = (target != 0) + 1e-8
    return (weight * squared).sum() / (weight.sum() * rows.shape[-1])
