"""Uniform random numbers for all parts of the generative model."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(bounds: tuple[float, float], generator: torch.Generator, *shape: int) -> Tensor:
    """Draw a tensor of uniformly distributed numbers between two bounds."""
    low, high = bounds
    return low + (high - low) * torch.rand(*shape, generator=generator)
