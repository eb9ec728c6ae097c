"""Networks that turn intensities into known posteriors, and a scan for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from synthseg_bids.inference.engine import Engine
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.models.unet import NetworkConfig

LABELS = tuple(label.index for label in segmentation_labels())
HIPPOCAMPI = (LABELS.index(17), LABELS.index(53))


class SideStub(nn.Module):
    """Call the intensity the probability of the hippocampus of the side it lies on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[2:]))
        probability = x[0, 0].float().clamp(1e-6, 1 - 1e-6)
        logits = torch.full((1, 33, *x.shape[2:]), -30.0)
        logits[0, 0] = (1 - probability).log()
        half = x.shape[2] // 2
        left, right = HIPPOCAMPI
        logits[0, left, :half] = probability[:half].log()
        logits[0, right, half:] = probability[half:].log()
        return logits


class LabelStub(nn.Module):
    """Call the intensity the channel's number, divided by the number of the last one."""

    def forward(self, x: Tensor) -> Tensor:
        channels = torch.arange(33.0)[:, None, None, None]
        return -20 * (x[0].float() * 32 - channels)[None] ** 2


class StubEngine(Engine):
    """Run a stub as it is: its logits are its features."""

    def __init__(self, network: nn.Module, config: NetworkConfig) -> None:
        self.network, self.config = network, config
        self.device, self.dtype = torch.device('cpu'), torch.float32
        self.memory_limit = None

    def features(self, x: Tensor) -> Tensor:
        return self.network(x)

    def features_by_rows(self, x: Tensor, thickness: int) -> Callable[[slice], Tensor]:
        whole = self.features(x)
        return lambda rows: whole[:, :, rows]

    def logits(
        self,
        features: Tensor,
        box: Sequence[slice],
        mirror: Tensor | None = None,
        position: int | None = None,
        channels: Tensor | None = None,
    ) -> Tensor:
        assert position is None
        assert channels is None
        if mirror is not None:
            features = features.flip(2)[:, mirror]
        return features[(slice(None), slice(None), *box)].clone()


def ball(
    shape: tuple[int, ...],
    affine: np.ndarray,
    offset_mm: tuple[float, float, float],
    radius_mm: float,
    edge_mm: float = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a ball with a smooth border, and its centre: an offset from the image's in mm."""
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    centre = middle + np.array(offset_mm)
    positions = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    distance = np.linalg.norm(positions - centre[:, None], axis=0).reshape(shape)
    return np.clip((radius_mm - distance) / edge_mm + 0.5, 0, 1), centre
