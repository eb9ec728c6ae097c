"""Lesions of the white matter as part of the tissue that they lie in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..labels import LESION, LESION_TISSUES

#: Added to posteriors, so that shares are known where all of them are zero.
LEAST = 1e-12


@torch.inference_mode()
def fold_lesions(posteriors: Tensor, labels: Sequence[int]) -> Tensor:
    """Share the posterior of lesions out among the tissues that have lesions.

    In each voxel they get shares in proportion to their own posteriors, so that sides are kept.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Overwritten. Lesions are the last channel.
    labels : (n_channels,) sequence of int

    Returns
    -------
    (n_channels - 1, x, y, z) tensor
        Has the same sum in every voxel.
    """
    if labels[-1] != LESION:
        raise ValueError(f'labels {labels}: the last one is to be {LESION}')
    tissues = [channel for channel, label in enumerate(labels) if label in LESION_TISSUES]
    total = sum((posteriors[tissue] + LEAST for tissue in tissues), torch.zeros(()))
    share = posteriors[-1] / total
    for tissue in tissues:
        posteriors[tissue].add_((posteriors[tissue] + LEAST) * share)
    return posteriors[:-1]
