from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.models.upscale import upscale

COARSE = NetworkConfig(
    5, 4, levels=3, decoder_convs=1, norm='instance', norm_placement='conv', skip='add'
)


def learn(network: UNet3D) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the new features are seen from the second step on
        optimizer.zero_grad()
        network(torch.rand(1, 1, 16, 16, 16)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize('output_features', [0, 6])
def test_a_grown_network_does_what_the_coarse_one_did(output_features):
    torch.manual_seed(0)
    coarse = UNet3D(COARSE).eval()
    fine = upscale(coarse, replace(COARSE, sub_voxels=2, output_features=output_features)).eval()
    x = torch.rand(1, 1, 16, 24, 32)
    expected = functional.interpolate(coarse(functional.avg_pool3d(x, 2)), scale_factor=2)
    torch.testing.assert_close(fine(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('placement', ['conv', 'level'])
def test_statistics_grow_with_the_network(placement):
    config = replace(COARSE, norm='batch', norm_placement=placement)
    coarse = UNet3D(config)
    coarse(torch.rand(2, 1, 16, 16, 16))  # learns statistics
    fine = upscale(coarse.eval(), replace(config, sub_voxels=2)).eval()
    x = torch.rand(1, 1, 16, 24, 32)
    expected = functional.interpolate(coarse(functional.avg_pool3d(x, 2)), scale_factor=2)
    torch.testing.assert_close(fine(x), expected, atol=1e-4, rtol=1e-4)


def test_every_weight_of_a_grown_network_learns():
    fine = upscale(UNet3D(COARSE), replace(COARSE, sub_voxels=2, output_features=6))
    learn(fine)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fine.parameters())


@pytest.mark.parametrize('sub_voxels', [1, 2])
def test_lesions_begin_as_rare_white_matter(sub_voxels):
    torch.manual_seed(1)
    config = replace(COARSE, out_channels=33, sub_voxels=sub_voxels)
    before = UNet3D(config).eval()
    after = upscale(before, replace(config, out_channels=34)).eval()
    x = torch.rand(1, 1, 16, 16, 16)
    known, grown = before(x), after(x)
    torch.testing.assert_close(grown[:, :33], known)
    torch.testing.assert_close(grown[:, 33], known[:, [1, 19]].mean(1) - 3, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('norm', 'more'),
    [
        ('instance', {'features': 8}),
        ('batch', {'features': 6, 'output_features': 9}),
        ('instance', {'features': 7, 'deep_features': 8, 'output_features': 5}),
        ('instance', {'deep_features': 10}),
    ],
)
def test_a_wider_network_does_what_the_narrow_one_did_and_learns(norm, more):
    torch.manual_seed(2)
    config = replace(COARSE, norm=norm, sub_voxels=2, output_features=5)
    narrow = UNet3D(config)
    narrow(torch.rand(2, 1, 16, 16, 16))  # learns statistics
    wide = upscale(narrow.eval(), replace(config, **more)).eval()
    x = torch.rand(1, 1, 16, 24, 32)
    torch.testing.assert_close(wide(x), narrow(x), atol=1e-5, rtol=1e-4)
    learn(wide)
    for name, weight in wide.named_parameters():
        assert (weight.grad != 0).reshape(len(weight), -1).any(1).all(), name


@pytest.mark.parametrize('skip', ['add', 'concat'])
def test_only_voxels_and_more_features_may_differ(skip):
    config = replace(COARSE, skip=skip)
    for other in ({'features': 8, 'sub_voxels': 2}, {'features': 2}, {'decoder_convs': 2}):
        with pytest.raises(ValueError, match='cannot start from'):
            upscale(UNet3D(config), replace(config, **other))


def test_wider_networks_with_concatenated_skip_connections_are_refused():
    config = replace(COARSE, skip='concat')
    with pytest.raises(ValueError, match='cannot start from'):
        upscale(UNet3D(config), replace(config, features=8))
