"""Random posteriors, as they are and resampled channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from synthseg_bids.images.geometry import resampling_matrix
from synthseg_bids.images.resampling import resample


def random_posteriors(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Return smooth posteriors of all 33 channels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, 33, 4, 4, 4), generator=generator) * 6
    fine = nn.functional.interpolate(coarse, size=shape, mode='trilinear')
    return fine[0].softmax(0)


def boxed_posteriors(steps: Sequence[float]) -> tuple[tuple, Tensor]:
    """Return the arguments of a function that resamples a part of a grid, and the truth.

    Parameters
    ----------
    steps : sequence of float
        Voxels of the grid per voxel of the resampled one, along each axis.

    Returns
    -------
    arguments : tuple
        Posteriors within a box, that box, the shapes of both grids, and the steps.
    everywhere : (33, x, y, z) tensor
        The posteriors of the whole grid, resampled; outside of the box all is background.
    """
    shape, box = (20, 22, 24), (slice(3, 17), slice(0, 20), slice(5, 24))
    part = random_posteriors((14, 20, 19))
    posteriors = torch.zeros((33, *shape))
    posteriors[0] = 1
    posteriors[(slice(None), *box)] = part
    to_shape = tuple(int(n / s) for n, s in zip(shape, steps, strict=True))
    matrices = [
        torch.from_numpy(resampling_matrix(a, b, s))
        for a, b, s in zip(shape, to_shape, steps, strict=True)
    ]
    everywhere = torch.stack([resample(p, matrices) for p in posteriors])
    return (part, box, shape, to_shape, np.array(steps)), everywhere
