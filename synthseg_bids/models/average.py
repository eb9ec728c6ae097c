"""Average the weights of networks that have a training in common.

Networks that were trained on from one checkpoint lie in one valley of the loss: the average of
their weights is better than each of them (model soups; Wortsman et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .card import ModelCard
from .unet import UNet3D


@torch.no_grad()
def average(networks: Sequence[UNet3D]) -> UNet3D:
    """Return a network with the average weights of several.

    Parameters
    ----------
    networks : sequence of UNet3D
        There is at least one, and all have the same architecture.

    Returns
    -------
    UNet3D
        Filters that a normalisation follows are averaged as unit vectors, since their lengths,
        which grow during the training, change nothing.

    Raises
    ------
    ValueError
        If the architectures differ.
    """
    config = networks[0].config
    for other in networks[1:]:
        if other.config != config:
            raise ValueError(f'cannot average {config} and {other.config}; use one architecture')
    if len(networks) == 1:
        return networks[0]
    states = [network.state_dict() for network in networks]
    averaged = UNet3D(config)
    for name, weight in averaged.state_dict().items():
        values = torch.stack([state[name].float() for state in states])
        scaled = config.norm_placement == 'conv' and '.convs.' in name
        weight.copy_(_mean_filters(values) if scaled else values.mean(0))
    return averaged


def _mean_filters(filters: Tensor) -> Tensor:
    """Average the directions and the lengths of filters ``(n, out, in, x, y, z)`` over n."""
    lengths = filters.flatten(2).norm(dim=2)[..., None, None, None, None]
    return (filters / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)).mean(0) * lengths.mean(0)


def describe(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """Return what a model card says of the networks that a training started from.

    Parameters
    ----------
    cards : sequence of ModelCard
        There is at least one.

    Returns
    -------
    dict
        ``name`` and ``sha256``, of several networks joined by ``+``, and ``steps``: those of the
        longest training, since averaged networks have one in common.
    """
    return {
        'name': ' + '.join(card.name for card in cards),
        'sha256': ' + '.join(card.sha256 for card in cards),
        'steps': max(card.total_steps for card in cards),
    }
