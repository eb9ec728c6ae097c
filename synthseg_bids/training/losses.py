"""Training losses on logits and integer targets.

Targets are channel numbers, not one-hot volumes: with 33 channels a one-hot target would be the
largest tensor of a training step, and every sum over it can be computed by indexing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Target of the wl2 loss: logits of +MARGIN for the true channel, -MARGIN for the others.
MARGIN = 5.0
#: Logit of a channel without probability.
NEVER = -1e4
#: Added to volumes, in voxels, to reduce the loss of structures of a few voxels.
VOLUME_VOXELS = 20.0


def _rows(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as (batch, voxels, channels) in float32 and targets as (batch, voxels)."""
    rows = logits.movedim(1, -1).flatten(1, 3).float()
    return rows, target.flatten(1).long()


def merge_channels(
    logits: Tensor, target: Tensor, groups: Sequence[Sequence[Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """Merge channels that a scan's label map does not distinguish.

    Parameters
    ----------
    logits : (batch, channels, x, y, z) tensor
    target : (batch, x, y, z) integer tensor
        Channel of each voxel.
    groups : sequence of sequence of sequence of int
        Disjoint groups of channels for each scan.

    Returns
    -------
    logits, target
        The first channel of a group has the probability of the whole group, the others have none.
    """
    if not any(groups):
        return logits, target
    merged, lookups = [], []
    for scan, own in zip(logits, groups, strict=True):
        channels = list(scan.float().unbind())
        lookup = torch.arange(len(channels), device=target.device)
        for first, *others in own:
            channels[first] = torch.stack([channels[c] for c in (first, *others)]).logsumexp(0)
            for other in others:
                channels[other] = torch.full_like(channels[first], NEVER)
                lookup[other] = first
        merged.append(torch.stack(channels))
        lookups.append(lookup)
    targets = [lookup[one.long()] for lookup, one in zip(lookups, target, strict=True)]
    return torch.stack(merged), torch.stack(targets)


def segmentation_losses(
    logits: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return soft Dice loss, cross-entropy and volume loss.

    The Dice loss is one minus the mean over scans and channels of
    ``2 sum(p g) / (sum(p**2) + sum(g**2))`` (MIDL 2020 paper, section 2.4; background included,
    as in its public implementation). It overestimates the volume of uncertain structures (Bertels
    et al. 2021, section 3); the volume loss does not: the mean of ``|log(sum(p) / sum(g))|`` over
    scans and their channels, background excluded.

    Parameters
    ----------
    logits : (batch, channels, x, y, z) tensor
    target : (batch, x, y, z) integer tensor
        Channel of each voxel.
    weights : (channels,) tensor, optional
        Weight in the cross-entropy of voxels of each channel (default: 1). Their sum is divided by
        the number of voxels, so that a weight changes nothing for the other channels.

    Returns
    -------
    dice_loss, cross_entropy, volume_loss : 0-d tensors
        In [0, 1], in [0, inf) and in [0, inf).
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
    present = size_g[:, 1:] > 0
    ratio = (log_p.exp().sum(1)[:, 1:] + VOLUME_VOXELS) / (size_g[:, 1:] + VOLUME_VOXELS)
    volume = (ratio.log().abs() * present).sum() / present.sum().clamp(min=1)
    entropy = -picked if weights is None else -picked * weights[target]
    return 1 - dice.mean(), entropy.mean(), volume


def wl2(logits: Tensor, target: Tensor) -> Tensor:
    """Return the reference's warm-up loss: weighted squared distance of logits from +-MARGIN.

    Background voxels have almost no weight.

    Parameters
    ----------
    logits : (batch, channels, x, y, z) tensor
    target : (batch, x, y, z) integer tensor

    Returns
    -------
    0-d tensor
    """
    rows, target = _rows(logits, target)
    # Sum over channels of (z - m (2 g - 1))^2, expanded so that no one-hot volume is needed.
    at_target = rows.gather(-1, target[..., None])[..., 0]
    squared = (rows + MARGIN).square().sum(-1) - 4 * MARGIN * at_target
    weight = (target != 0) + 1e-8
    return (weight * squared).sum() / (weight.sum() * rows.shape[-1])
