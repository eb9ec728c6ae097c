from __future__ import annotations

import torch
from torch.nn import functional

from synthseg_bids.losses import dice_and_cross_entropy, wl2


def case(channels=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, channels, (2, 4, 5, 6), generator=generator)


def test_dice_and_cross_entropy_agree_with_one_hot_targets():
    logits, target = case()
    p = logits.softmax(1)
    g = functional.one_hot(target, 5).movedim(-1, 1)
    dims = (2, 3, 4)
    expected = (2 * (p * g).sum(dims) + 1e-7) / ((p**2).sum(dims) + g.sum(dims) + 1e-7)
    dice, entropy = dice_and_cross_entropy(logits, target.byte())
    torch.testing.assert_close(dice, 1 - expected.mean())
    torch.testing.assert_close(entropy, functional.cross_entropy(logits, target))


def test_wl2_agrees_with_one_hot_targets():
    logits, target = case()
    g = functional.one_hot(target, 5).movedim(-1, 1).float()
    w = 1 - g[:, :1] + 1e-8
    expected = (w * (logits - 5 * (2 * g - 1)) ** 2).sum() / (w.sum() * 5)
    torch.testing.assert_close(wl2(logits, target), expected)


def test_a_perfect_prediction_costs_nothing():
    _, target = case()
    perfect = 40.0 * functional.one_hot(target, 5).movedim(-1, 1)
    dice, entropy = dice_and_cross_entropy(perfect, target)
    assert dice < 1e-5
    assert entropy < 1e-5
