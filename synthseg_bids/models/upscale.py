"""Initialise a network from a trained one that is coarser, narrower, or has no lesion label.

Training on a coarse grid is cheap and teaches the anatomy; training at 1 mm adds the exact course
of boundaries. A network with ``sub_voxels`` can start with exactly the output that a coarser one
gives for the average of each block of voxels. A network with more features can start with exactly
the output of a narrower one (Chen et al. 2016, Net2Net).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..labels import network_labels
from .unet import NetworkConfig, UNet3D

WHITE_MATTER = (2, 41)
#: Difference of the first logits of white matter and lesions: a twentieth of its probability.
RARITY = 3.0


@torch.no_grad()
def upscale(network: UNet3D, config: NetworkConfig) -> UNet3D:
    """Return a network of another architecture that reproduces a trained one.

    Parameters
    ----------
    network : UNet3D
        Trained on a grid ``config.sub_voxels`` times as coarse; or of the same architecture with
        33 labels instead of 34, or with fewer features in some levels.
    config : NetworkConfig
        New architecture; may also have more features before the output layer.

    Returns
    -------
    UNet3D
        It gives each voxel of a block the logits that `network` gives the block's average.
        Additional features are random, and the weights with which known ones see them are zero.
        Lesions start as rare white matter.

    Raises
    ------
    ValueError
        If the architectures differ in more than that.
    """
    old = network.config
    if replace(old, out_channels=config.out_channels) == config:
        return _with_lesions(network, config)
    if not (_is_finer(config, old) or _is_wider(config, old)):
        raise ValueError(f'cannot start from {old}, asked for {config}')
    grown = UNet3D(config)
    before, blocks = network.state_dict(), config.positions // old.positions
    for name, weight in grown.state_dict().items():
        value = before[name]
        if name == 'down.0.convs.0.weight':
            value = torch.cat([value / blocks] * blocks, 1)
        elif name.startswith('likelihood'):
            value = torch.cat([value] * blocks)
        # The only scalar is BatchNorm's number of batches.
        part = weight[: len(value)] if value.ndim else weight
        if value.ndim > 1:
            part.zero_()
            part = part[:, : value.shape[1]]
        part.copy_(value)
    return grown


def _is_finer(config: NetworkConfig, old: NetworkConfig) -> bool:
    """Return whether an architecture has more voxels in a block, and at most other outputs."""
    same = replace(
        config, sub_voxels=old.sub_voxels, output_features=old.output_features or old.features
    )
    return same == replace(old, output_features=same.output_features) and old.sub_voxels == 1


def _is_wider(config: NetworkConfig, old: NetworkConfig) -> bool:
    """Return whether an architecture differs in numbers of features alone, of which none is less.

    Where skip connections are concatenated, it does not: new features would lie between old ones.
    """
    names = ('features', 'deep_features', 'output_features')
    same = replace(config, **{name: getattr(old, name) for name in names}) == old
    widths = zip(_widths(config), _widths(old), strict=True) if same else ()
    return same and config.skip == 'add' and all(new >= before for new, before in widths)


def _widths(config: NetworkConfig) -> list[int]:
    """Return the features of each level and those before the output layer."""
    return [*config.level_features, config.output_features or config.features]


@torch.no_grad()
def _with_lesions(network: UNet3D, config: NetworkConfig) -> UNet3D:
    """Return a network with one more label, lesions of the white matter."""
    old = network.config
    labels, new = network_labels(), network_labels(lesions=True)
    if (old.out_channels, config.out_channels) != (len(labels), len(new)):
        raise ValueError(f'cannot start from {old}, asked for {config}')
    white = [labels.index(label) for label in WHITE_MATTER]
    grown = UNet3D(config)
    state, before = grown.state_dict(), network.state_dict()
    for name, weight in state.items():
        value = before[name]
        if name.startswith('likelihood'):
            value = value.view(old.positions, old.out_channels, *value.shape[1:])
            lesions = value[:, white].mean(1, keepdim=True)
            if name.endswith('bias'):
                lesions = lesions - RARITY
            value = torch.cat([value, lesions], 1).reshape(weight.shape)
        weight.copy_(value)
    return grown
