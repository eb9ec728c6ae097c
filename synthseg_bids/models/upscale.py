"""Start a network from a smaller one that is trained already, or that knows no lesions.

Training at a coarse grid is cheap and teaches what there is in a head; what a network at 1 mm adds
is where exactly the boundaries run. So a network with ``sub_voxels`` may start as one that
computes exactly what a coarser one does for the average of each block of voxels.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..labels import network_labels
from .unet import NetworkConfig, UNet3D

WHITE_MATTER = (2, 41)
#: What the logit of lesions begins below that of white matter: a twentieth of its probability.
RARITY = 3.0


@torch.no_grad()
def upscale(network: UNet3D, config: NetworkConfig) -> UNet3D:
    """Return a network that sees single voxels where another sees blocks of them.

    Parameters
    ----------
    network : UNet3D
        On a grid ``config.sub_voxels`` times as coarse; or one of the same architecture with 33
        labels, where 34 are asked for.
    config : NetworkConfig
        Of the new network; may have more features before the output layer as well.

    Returns
    -------
    UNet3D
        For every scan it gives each voxel of a block the logits that `network` gives the block's
        average. The features that it has more of begin at random and are not used yet. Lesions
        begin as white matter that is rare.

    Raises
    ------
    ValueError
        If the two differ in more than that.
    """
    old = network.config
    if replace(old, out_channels=config.out_channels) == config:
        return _with_lesions(network, config)
    same = replace(
        config, sub_voxels=old.sub_voxels, output_features=old.output_features or old.features
    )
    if same != replace(old, output_features=same.output_features) or old.sub_voxels != 1:
        raise ValueError(f'cannot start from {old}, asked for {config}')
    grown = UNet3D(config)
    state, before = grown.state_dict(), network.state_dict()
    for name, weight in state.items():
        value = before[name]
        if name == 'down.0.convs.0.weight':
            value = (value / config.positions).expand_as(weight)
        elif name.startswith('likelihood'):
            value = torch.cat([value] * config.positions)
        if name == 'likelihood.weight':
            weight.zero_()
            weight[:, : value.shape[1]] = value
        else:
            # A whole one of BatchNorm is the number of its batches.
            part = weight[: len(value)] if value.ndim else weight
            part.copy_(value)
    return grown


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
