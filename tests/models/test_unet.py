from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from synthseg_bids.models.unet import (
    InstanceNorm,
    NetworkConfig,
    UNet3D,
    convolve,
    fold_voxels,
    moments,
    unfold_voxels,
)


def test_the_default_network_is_the_papers():
    network = UNet3D()
    assert sum(p.numel() for p in network.parameters()) == 13_240_641
    statistics = [b for name, b in network.named_buffers() if 'running' in name]
    assert sum(b.numel() for b in statistics) == 2_208


def test_skip_connections_branch_off_before_the_norm():
    network = UNet3D(NetworkConfig(features=2, levels=2))
    for norm in [level.norm for level in network.down]:
        norm.bias.data += 5
    before, after = network.down[0](torch.zeros(1, 1, 4, 4, 4))
    torch.testing.assert_close(after, network.down[0].norm(before))
    assert (after - before).abs().max() > 1


@pytest.mark.parametrize('skip', ['concat', 'add'])
@pytest.mark.parametrize('norm', ['batch', 'instance'])
@pytest.mark.parametrize('placement', ['level', 'conv'])
def test_every_configuration_maps_a_scan_to_logits(skip, norm, placement):
    config = NetworkConfig(5, 2, 3, 2, 1, norm, placement, skip)
    network = UNet3D(config)
    logits = network(torch.rand(2, 1, 8, 12, 16))
    assert logits.shape == (2, 5, 8, 12, 16)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_instance_norm_treats_each_scan_alone():
    norm = InstanceNorm(3)
    norm.weight.data, norm.bias.data = torch.rand(3), torch.rand(3)
    x = torch.rand(2, 3, 4, 5, 6) * torch.tensor([1, 40.0]).view(2, 1, 1, 1, 1)
    together = norm(x)
    alone = torch.cat([norm(x[:1]), norm(x[1:])])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    expected = functional.instance_norm(x, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(together, expected)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match=r"norm: 'group' not in"):
        NetworkConfig(norm='group')


def test_folding_turns_blocks_of_voxels_into_channels():
    images = torch.rand(2, 3, 4, 6, 8)
    folded = fold_voxels(images, 2)
    assert folded.shape == (2, 24, 2, 3, 4)
    # Sixth of a block in C order: (1, 0, 1); three channels each.
    torch.testing.assert_close(folded[:, 15:18], images[:, :, 1::2, ::2, 1::2])
    torch.testing.assert_close(unfold_voxels(folded, 2), images)
    assert fold_voxels(images, 1) is images


def test_sub_voxels_give_every_voxel_its_logits():
    torch.manual_seed(0)
    config = NetworkConfig(5, features=4, levels=2, sub_voxels=2, output_features=6)
    assert config.size_multiple == 4
    network = UNet3D(config).eval()
    x = torch.rand(1, 1, 8, 12, 16)
    logits = network(x)
    assert logits.shape == (1, 5, 8, 12, 16)
    torch.testing.assert_close(network(x, position=6), logits[..., 1::2, 1::2, ::2])


@pytest.mark.parametrize('shape', [(1, 3, 5, 6, 7), (1, 16, 40, 40, 30), (1, 2, 1, 1, 1)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_moments_are_exact_and_do_not_depend_on_threads(shape, dtype):
    torch.manual_seed(0)
    x = (0.3 * torch.randn(shape) + 2).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.stack(moments(x)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    values = x.double().flatten(2)[0]
    expected = torch.stack([values.mean(1), values.var(1, unbiased=False)])
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_inference_normalises_as_training(dtype):
    torch.manual_seed(0)
    norm = InstanceNorm(4)
    torch.nn.init.uniform_(norm.weight, -1, 2)
    torch.nn.init.uniform_(norm.bias, -1, 1)
    x = torch.randn(1, 4, 6, 7, 8).to(dtype)
    found, expected = norm.eval()(x), norm.train()(x)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(
        found, expected, atol=1e-5 if dtype == torch.float32 else 0.03, rtol=1e-2
    )


@pytest.mark.parametrize('size', [(2, 2, 2), (2, 4, 3), (4, 2, 2)])
def test_gradients_in_bfloat16_are_those_in_float32(size):
    """Whatever the memory held before: oneDNN leaves some of them as they are."""
    torch.manual_seed(0)
    conv, image = nn.Conv3d(16, 32, 3, padding=1), torch.randn(1, 16, *size)
    pull = torch.randn(1, 32, *size)
    expected = torch.autograd.grad((conv(image) * pull).sum(), conv.weight)[0]
    for _ in range(10):
        used = [torch.full((2**n,), 1e30) for n in range(4, 20) for _ in range(6)]
        del used
        with torch.autocast('cpu', torch.bfloat16):
            found = convolve(conv, image)
        gradient = torch.autograd.grad((found.float() * pull).sum(), conv.weight)[0]
        torch.testing.assert_close(gradient, expected, atol=0.2, rtol=0.1)
