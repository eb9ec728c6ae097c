"""Random numbers as all parts of the generative model draw them."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(bounds: tuple[float, float], generator: torch.Generator, *shape: int) -> Tensor:
    """Draw a tensor of numbers between two bounds, all equally likely."""
    low, high = bounds
    return low + (high - low) * torch.rand(*shape, generator=generator)
