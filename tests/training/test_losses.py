from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from synthseg_bids.training.losses import merge_channels, segmentation_losses, wl2


def case(channels=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, channels, (2, 4, 5, 6), generator=generator)


def test_segmentation_losses_agree_with_one_hot_targets():
    logits, target = case()
    p = logits.softmax(1)
    g = functional.one_hot(target, 5).movedim(-1, 1)
    dims = (2, 3, 4)
    expected = (2 * (p * g).sum(dims) + 1e-7) / ((p**2).sum(dims) + g.sum(dims) + 1e-7)
    dice, entropy, _ = segmentation_losses(logits, target.byte())
    torch.testing.assert_close(dice, 1 - expected.mean())
    torch.testing.assert_close(entropy, functional.cross_entropy(logits, target))


def test_weights_of_the_cross_entropy_are_per_voxel():
    logits, target = case()
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 10.0])
    each = functional.cross_entropy(logits, target, reduction='none')
    plain, weighted = (
        segmentation_losses(logits, target),
        segmentation_losses(logits, target, weights),
    )
    torch.testing.assert_close(weighted[1], (each * weights[target]).mean())
    torch.testing.assert_close((plain[0], plain[2]), (weighted[0], weighted[2]))


def test_wl2_agrees_with_one_hot_targets():
    logits, target = case()
    g = functional.one_hot(target, 5).movedim(-1, 1).float()
    w = 1 - g[:, :1] + 1e-8
    expected = (w * (logits - 5 * (2 * g - 1)) ** 2).sum() / (w.sum() * 5)
    torch.testing.assert_close(wl2(logits, target), expected)


def test_a_perfect_prediction_costs_nothing():
    _, target = case()
    perfect = 40.0 * functional.one_hot(target, 5).movedim(-1, 1)
    dice, entropy, _ = segmentation_losses(perfect, target)
    assert dice < 1e-5
    assert entropy < 1e-5


def test_merged_channels_are_one():
    logits, target = case()
    merged, folded = merge_channels(logits, target, [[[1, 3]], []])
    p, q = logits.softmax(1), merged.softmax(1)
    torch.testing.assert_close(q[0, 1], p[0, 1] + p[0, 3])
    torch.testing.assert_close(q[0, [0, 2, 4]], p[0, [0, 2, 4]])
    assert not q[0, 3].any()
    assert torch.equal(folded[0], torch.where(target[0] == 3, 1, target[0]))
    torch.testing.assert_close(q[1], p[1])
    assert torch.equal(folded[1], target[1])


def test_what_a_label_map_does_not_distinguish_costs_nothing():
    logits, target = case()
    logits = logits.requires_grad_()
    known = torch.where(target == 3, 1, target)
    groups = [[[1, 3]]] * 2
    moved = torch.zeros_like(logits)
    # What one channel of a group gains the other loses.
    moved[:, 1], moved[:, 3] = logits[:, 3].detach() - logits[:, 1].detach(), 0
    moved[:, 3] = logits[:, 1].detach() - logits[:, 3].detach()
    first = segmentation_losses(*merge_channels(logits, known, groups))
    second = segmentation_losses(*merge_channels(logits + moved, known, groups))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)
    sum(first).backward()
    assert logits.grad.isfinite().all()


def test_the_volume_loss_is_the_logarithm_of_the_ratio():
    target = torch.zeros(1, 20, 20, 20, dtype=torch.long)
    target[:, :10] = 1
    drawn = torch.zeros_like(target)
    drawn[:, :15] = 1
    logits = 60.0 * functional.one_hot(drawn, 3).movedim(-1, 1)
    volume = segmentation_losses(logits, target)[2]
    assert float(volume) == pytest.approx(math.log(6020 / 4020), rel=1e-3)
    assert (
        segmentation_losses(60.0 * functional.one_hot(target, 3).movedim(-1, 1), target)[2] < 1e-4
    )
