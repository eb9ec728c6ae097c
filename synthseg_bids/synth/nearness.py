"""Nearness to some labels of a label map, fast, for what depends on distances between tissues."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import generation_labels
from ..linear import apply_along_axes, blur_matrix, interpolation_matrix

#: Spacing of the coarse grid on which masks are blurred, and the blur's standard deviation, in
#: voxels.
NODE = 4
REACH = 6.0


@lru_cache(maxsize=16)
def label_mask(labels: tuple[int, ...], device: torch.device) -> Tensor:
    """Return, per row of the generation table, whether it is one of some labels.

    Masks stay on each device: a copy for every scan would wait for a GPU.
    """
    return torch.tensor([label.index in labels for label in generation_labels()], device=device)


def nearness(rows: Tensor, labels: tuple[int, ...]) -> Tensor:
    """Return a blurred mask of some labels, 1 at its border and less outside.

    Parameters
    ----------
    rows : (x, y, z) uint8 tensor
        Rows of the generation table.
    labels : tuple of int

    Returns
    -------
    (x, y, z) float32 tensor
        In [0, 1]; it is computed on a coarse grid.
    """
    mask = label_mask(labels, rows.device)[rows.int()].float()[None, None]
    coarse = functional.avg_pool3d(mask, NODE, ceil_mode=True)[0, 0]
    x, y, z = (blur_matrix(n, REACH / NODE, coarse.device) for n in coarse.shape)
    smooth = apply_along_axes(coarse, (x, y, z)).mul_(2).clamp_(max=1)
    x, y, z = (
        interpolation_matrix((torch.arange(n, device=mask.device) - (NODE - 1) / 2) / NODE, g)
        for n, g in zip(rows.shape, coarse.shape, strict=True)
    )
    return apply_along_axes(smooth, (x, y, z))
