"""Muon: updates have equal singular values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from synthseg_bids.training.muon import Muon, orthogonalise


@pytest.mark.parametrize('shape', [(8, 30), (30, 8), (5, 5), (1, 27)])
def test_singular_values_become_alike(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    found = torch.linalg.svdvals(orthogonalise(matrix).float())
    before = torch.linalg.svdvals(matrix)
    assert 0.5 < found.min() <= found.max() < 1.3
    assert shape[0] == 1 or before.max() / before.min() > 2 * found.max() / found.min()


def test_zero_gradients_change_nothing():
    assert not orthogonalise(torch.zeros(3, 9)).any()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 4, 3), nn.ELU(), nn.Conv3d(4, 2, 1)
    return nn.Sequential(*layers)


def test_weights_of_convolutions_move_by_their_own_size():
    network = small()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = Muon(network, lr=0.01, output_layer=network[2])
    assert [len(group['params']) for group in optimizer.param_groups] == [1, 3]
    network(torch.randn(1, 1, 6, 6, 6)).square().sum().backward()
    optimizer.step()
    moved = [
        float((p.detach() - q).norm() / q.norm())
        for p, q in zip(network.parameters(), before, strict=True)
    ]
    # 4 times the rate, whatever the gradient's size; singular values are equal to a third.
    assert moved[0] == pytest.approx(0.04, rel=0.35)
    # Adam's first step is the rate for every single number.
    assert float((network[2].bias.detach() - before[3]).abs().max()) == pytest.approx(
        0.01, rel=1e-3
    )


def test_learns():
    network = small()
    optimizer = Muon(network, lr=0.01, output_layer=network[2])
    x = torch.randn(4, 1, 6, 6, 6)
    target = torch.stack([x[:, 0, 1:-1, 1:-1, 1:-1], x[:, 0, 2:, 1:-1, 1:-1]], 1)
    losses = []
    for _ in range(60):
        loss = (network(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
