"""What only a real GPU can show; tests/test_gpu.py has what a pretended one shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from heads import write_heads

from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.forward import infer
from synthseg_bids.labels import mirror_channels
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.synth.label_maps import find_label_maps, generate, load_label_map
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.training.config import TrainingConfig
from synthseg_bids.training.trainer import Trainer

pytestmark = pytest.mark.gpu

GPU = torch.device('cuda')
CONFIG = replace(PRESETS['synthseg-bids'], size=(16, 16, 16))
NETWORK = NetworkConfig(features=8, levels=3, norm='instance', norm_placement='conv')


@pytest.fixture
def maps(tmp_path):
    return [load_label_map(path).to(GPU) for path in find_label_maps(write_heads(tmp_path))]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Refuse whatever waits for the GPU."""
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('preset', PRESETS)
def test_the_generator_does_not_wait_for_the_gpu(maps, preset):
    config = replace(PRESETS[preset], size=(16, 16, 16))
    generate(maps[0], config, torch.Generator().manual_seed(0))
    for seed in range(8):
        with no_waiting():
            image, _, _ = generate(maps[0], config, torch.Generator().manual_seed(seed))
        assert torch.isfinite(image).all()


@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_a_training_step_does_not_wait_for_the_gpu(maps, optimizer):
    config = TrainingConfig(network=NETWORK, generator=CONFIG, optimizer=optimizer, batch_size=2)
    trainer = Trainer(config, maps, device=GPU)
    first = [float(trainer.train_step()) for _ in range(3)]
    with no_waiting():
        loss = trainer.train_step()
    assert float(loss) < 2 * first[0]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_posteriors_of_both_passes_are_those_of_the_cpu(rng, dtype):
    torch.manual_seed(0)
    network = UNet3D(NETWORK)
    image = torch.from_numpy(rng.random((24, 26, 28), dtype=np.float32))
    here, there = (
        infer(Engine(network, torch.device(name), form), image, mirror_channels()).posteriors
        for name, form in (('cpu', torch.float32), ('cuda', dtype))
    )
    # bfloat16 has 8 bits; float32 may be TF32 in convolutions, which has 11.
    assert (here - there).abs().max() < 0.05
    assert (here.argmax(0) == there.argmax(0)).float().mean() > 0.9
