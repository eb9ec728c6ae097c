"""Shared fixtures: everything is small, seeded and made on the fly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from synthseg_bids.network import NetworkConfig, UNet3D
from synthseg_bids.weights import ModelCard, save_model


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy's generator, seeded."""
    return np.random.default_rng(0)


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights: three levels, four features, 4 mm."""
    torch.manual_seed(0)
    config = NetworkConfig(features=4, levels=3, norm='instance', norm_placement='conv')
    path = tmp_path_factory.mktemp('model') / 'tiny.safetensors'
    save_model(path, UNet3D(config), ModelCard(name='tiny', network=config, spacing_mm=4.0))
    return path


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """Make empty files below ``tmp_path/raw``; returns that folder."""

    def make(*names: str) -> Path:
        root = tmp_path / 'raw'
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make
