"""The rearranged forward pass is the network's own function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from synthseg_bids.inference.engine import Engine, blocks, sub_pixel_weights
from synthseg_bids.models.unet import NetworkConfig, UNet3D, unfold_voxels

SUB_VOXELS = NetworkConfig(
    features=4,
    levels=4,
    decoder_convs=1,
    skip='add',
    norm='instance',
    norm_placement='conv',
    sub_voxels=2,
    output_features=6,
)
CONFIGS = {
    'paper': NetworkConfig(features=4),
    'instance': NetworkConfig(features=4, norm='instance', norm_placement='conv'),
    'instance, level': NetworkConfig(features=4, norm='instance'),
    'add': NetworkConfig(
        features=4, decoder_convs=1, skip='add', norm='instance', norm_placement='conv'
    ),
    'sub-voxels': SUB_VOXELS,
    'wide first level': replace(SUB_VOXELS, features=8, output_features=12, deep_features=6),
    'concat, deep features': NetworkConfig(features=4, levels=3, deep_features=6),
    'add, batch': NetworkConfig(features=4, levels=3, decoder_convs=1, skip='add'),
    'wide': NetworkConfig(features=24, levels=3),
    'wide, instance': NetworkConfig(features=24, levels=3, norm='instance', norm_placement='conv'),
}


def random_network(config: NetworkConfig) -> UNet3D:
    torch.manual_seed(0)
    network = UNet3D(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            # Negative scales, too, which must not be pulled through a max-pooling.
            nn.init.uniform_(module.weight, -1, 2)
            for tensor, low, high in (
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.2, 2),
            ):
                nn.init.uniform_(tensor, low, high)
    return network


def logits(engine: Engine, x: torch.Tensor) -> torch.Tensor:
    features = engine.features(x)
    whole = [slice(0, n) for n in features.shape[2:]]
    parts = [engine.logits(features, block) for block in blocks(whole)]
    folded = torch.cat(parts, 2).flatten(0, 1)[None]
    return unfold_voxels(folded, engine.config.sub_voxels)[0]


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 0.035)])
def test_equals_the_network(name, dtype, tolerance, monkeypatch):
    monkeypatch.setattr('synthseg_bids.inference.engine.BLOCK_VOXELS', 5000)  # several blocks
    monkeypatch.setattr('synthseg_bids.inference.winograd.SLAB_VALUES', 2**14)
    monkeypatch.setattr('synthseg_bids.inference.winograd.ELU_VALUES', 1000)
    network = random_network(CONFIGS[name])
    x = torch.rand(1, 1, 64, 32, 32)
    with torch.inference_mode():
        expected = network(x)[0]
    found = logits(Engine(network, torch.device('cpu'), dtype), x)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize('name', ['paper', 'wide', 'add, batch'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize('thickness', [16, 24])
def test_rows_are_those_of_the_whole(name, dtype, tolerance, thickness):
    engine = Engine(random_network(CONFIGS[name]), torch.device('cpu'), dtype)
    x = torch.rand(1, 1, 64, 16, 32)
    whole = engine.features(x)
    compute = engine.features_by_rows(x, thickness)
    parts = [compute(slice(i, min(i + thickness, 64))) for i in range(0, 64, thickness)]
    assert (torch.cat(parts, 2) - whole).abs().max() <= tolerance * whole.abs().max()


def test_leaves_the_network_as_it_was():
    network = random_network(CONFIGS['paper'])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Engine(network, torch.device('cpu'), torch.bfloat16)
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_sub_pixel_weights_are_exact_at_the_borders():
    weight, coarse = torch.rand(3, 2, 3, 3, 3).double(), torch.rand(1, 2, 4, 5, 3).double()
    fine = functional.interpolate(coarse, scale_factor=2.0, mode='nearest')
    expected = functional.conv3d(fine, weight, padding=1)
    parts = functional.conv3d(coarse, sub_pixel_weights(weight), padding=1).chunk(8, 1)
    # Odd along the first axis, even along the others.
    torch.testing.assert_close(parts[4][:, :, 1:, :-1, :-1], expected[:, :, 1::2, ::2, ::2])
    torch.testing.assert_close(parts[3][:, :, :-1, 1:, 1:], expected[:, :, ::2, 1::2, 1::2])


@pytest.mark.parametrize('shape', [(70, 6, 7), (3, 300, 40), (2, 1, 9000), (4, 0, 3)])
@pytest.mark.parametrize('positions', [1, 8])
def test_blocks_cover_every_voxel_once(shape, positions):
    times = np.zeros([n + 5 for n in shape], dtype=np.uint8)
    box = [slice(5, 5 + n) for n in shape]
    for block in blocks(box, positions):
        times[block] += 1
    assert (times[tuple(box)] == 1).all()
    assert times.sum() == np.prod(shape)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_threads_change_nothing_but_rounding(dtype, tolerance):
    engine = Engine(random_network(CONFIGS['wide']), torch.device('cpu'), dtype)
    x, before = torch.rand(1, 1, 16, 24, 20), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(logits(engine, x))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert (other - found[0]).abs().max() <= tolerance * found[0].abs().max()


def test_of_networks_like_the_shipped_one_threads_change_nothing():
    """Normalisation magnifies what sums in another order round: theirs have one order."""
    config = replace(SUB_VOXELS, features=16)
    engine = Engine(random_network(config), torch.device('cpu'), torch.bfloat16)
    # Large enough for PyTorch to divide it between threads.
    x, before = torch.rand(1, 1, 96, 96, 64), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(logits(engine, x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
