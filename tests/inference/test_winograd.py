"""Layers in bfloat16 against PyTorch's in float32 on the same rounded numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from synthseg_bids.inference.winograd import WinogradConv3d, channels_last, elu_


@pytest.mark.parametrize('elu', [False, True])
@pytest.mark.parametrize('n_planes', [2, 4, 12])
@pytest.mark.parametrize('slab_values', [1, 2500, 2**22])
def test_transformed_convolution(elu, n_planes, slab_values, monkeypatch):
    """One pair of planes at a time, several, or all: also at the image's borders."""
    monkeypatch.setattr('synthseg_bids.inference.winograd.SLAB_VALUES', slab_values)
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 5, 3, 3, 3) / 135**0.5, torch.randn(7)
    x = torch.randn(1, 5, n_planes, 9, 10).bfloat16()
    with torch.inference_mode():
        found = WinogradConv3d(weight, bias)(x, elu)
        expected = functional.conv3d(x.float(), weight, bias, padding=1)
    expected = functional.elu(expected) if elu else expected
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    error = (found - expected).flatten(3)
    assert error.abs().max() < 0.04
    # Rounding, not a misplaced voxel: no plane is worse than the others.
    assert (error.square().mean((0, 1, 3)).sqrt() < 0.008).all()


def test_without_a_bias():
    weight, x = torch.ones(2, 1, 3, 3, 3), torch.ones(1, 1, 2, 3, 3).bfloat16()
    with torch.inference_mode():
        found = WinogradConv3d(weight, None)(x)
    assert found[0, 1, :, 1, 1].tolist() == [18, 18]


@pytest.mark.parametrize('values', [7, 2**17])
def test_elu_is_that_of_float32(values, monkeypatch):
    """All bfloat16 numbers, those that are not finite too."""
    monkeypatch.setattr('synthseg_bids.inference.winograd.ELU_VALUES', values)
    every = torch.arange(-(2**15), 2**15, 1 if values > 7 else 97).to(torch.int16)
    every = every.view(torch.bfloat16)[: len(every) // 4 * 4]
    x = channels_last(every.view(1, 2, 1, 2, -1))
    expected = functional.elu(x.float())
    found = elu_(x.clone(memory_format=torch.preserve_format)).float()
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=1e-7, equal_nan=True)
