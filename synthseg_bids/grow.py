"""Start a network from a smaller one that is trained already.

Training at a coarse grid is cheap and teaches what there is in a head; what a network at 1 mm adds
is where exactly the boundaries run. So a network with ``sub_voxels`` may start as one that
computes exactly what a coarser one does for the average of each block of voxels.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .network import NetworkConfig, UNet3D


@torch.no_grad()
def grow(network: UNet3D, config: NetworkConfig) -> UNet3D:
    """Return a network that sees single voxels where another sees blocks of them.

    Parameters
    ----------
    network : UNet3D
        On a grid ``config.sub_voxels`` times as coarse.
    config : NetworkConfig
        Of the new network; may have more features before the output layer as well.

    Returns
    -------
    UNet3D
        For every scan it gives each voxel of a block the logits that `network` gives the block's
        average. The features that it has more of begin at random and are not used yet.

    Raises
    ------
    ValueError
        If the two differ in more than that.
    """
    old = network.config
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
