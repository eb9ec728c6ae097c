"""Networks for the tests of parcels of the cortex."""

from __future__ import annotations

from pathlib import Path

import torch

from synthseg_bids.inference.hemispheres import N_INPUTS
from synthseg_bids.labels import channel_labels
from synthseg_bids.models import PARCEL_MODEL
from synthseg_bids.models.card import ModelCard, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.parcels import CORTEX, PARCEL_NUMBERS


def save_cortex_model(path: Path, label: int = CORTEX[0]) -> Path:
    """Write a network that takes everything for one label."""
    torch.manual_seed(0)
    config = NetworkConfig(features=4, levels=3, norm='instance', norm_placement='conv')
    network = UNet3D(config)
    with torch.no_grad():
        network.likelihood.bias[channel_labels().index(label)] += 100
    save_model(path, network, ModelCard(name='cortex', network=config, spacing_mm=4.0))
    return path


def save_tiny_parcels(folder: Path) -> Path:
    """Write a network of parcels with random weights; return the folder, to be searched by name.

    Set ``SYNTHSEG_BIDS_MODELS`` to it.
    """
    torch.manual_seed(0)
    config = NetworkConfig(
        out_channels=len(PARCEL_NUMBERS),
        features=4,
        levels=2,
        norm='instance',
        norm_placement='conv',
        in_channels=N_INPUTS,
    )
    card = ModelCard(name=PARCEL_MODEL, network=config, spacing_mm=2.0, labels=PARCEL_NUMBERS)
    folder.mkdir(exist_ok=True)
    save_model(folder / f'{PARCEL_MODEL}.safetensors', UNet3D(config), card)
    return folder
