"""Confidence of the network: per structure, per scan, and volumes of low confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..hardware.threads import map_in_threads
from ..images.morphology import opened
from ..labels import network_labels, segmentation_labels
from .postprocess import slabs

#: Entropy in bits above which a voxel is unsure. Two equally likely labels have 1 bit, as much of
#: the grey matter in T2w scans of low contrast; three have 1.6.
UNSURE_BITS = 1.4
#: With a larger posterior the entropy stays below that, for any number of other labels.
MAX_POSTERIOR = 0.85
#: Borders between structures are unsure, but thin: twice this is the least width of a region.
BORDER_MM = 2.0


@torch.inference_mode()
def mean_confidence(best: Tensor, winner: Tensor, n_channels: int) -> np.ndarray:
    """Average each channel's posterior over the voxels in which it is the most likely.

    Parameters
    ----------
    best, winner : (x, y, z) tensor
        Largest posterior of each voxel inside the brain's bounding box, and its channel.
    n_channels : int

    Returns
    -------
    (n_channels,) float32 array
        NaN for channels that are nowhere the most likely, and for background, most of which lies
        outside the box.
    """
    winner = winner.flatten()
    sums = torch.bincount(winner, best.flatten().double(), minlength=n_channels)
    means = (sums / torch.bincount(winner, minlength=n_channels)).float().numpy()
    means[0] = np.nan
    return means


def overall_confidence(confidence: np.ndarray) -> float:
    """Average the confidence over all structures; missing ones count 0.

    Lesions, of which a healthy brain has none, do not count.

    Parameters
    ----------
    confidence : (n_channels,) array
        From :func:`mean_confidence`.

    Examples
    --------
    >>> overall_confidence(np.array([np.nan, 0.9, np.nan]))
    0.45
    """
    return float(np.nan_to_num(confidence[1 : len(network_labels())]).mean())


@torch.inference_mode()
def unsure_sides(
    posteriors: Tensor, best: Tensor, winner: Tensor, labels: Sequence[int], spacing_mm: float
) -> tuple[float, float]:
    """Measure, on either side, the volume of regions of high entropy.

    Borders are unsure in every scan, and grey matter of low contrast is unsure on both sides.
    Cavities and masses, which do not occur in training, are unsure throughout.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        They sum to 1.
    best, winner : (x, y, z) tensor
        See :func:`mean_confidence`.
    labels : (n_channels,) sequence of int
    spacing_mm : float
        Voxel size of the grid.

    Returns
    -------
    left, right : float
        Volume in mm^3 of voxels in structures of this side with an entropy above 1.4 bits, after
        a morphological opening.
    """
    if not posteriors.numel():
        return 0.0, 0.0
    side_of = {label.index: label.side for label in segmentation_labels(lesions=True)}
    left, right = (
        torch.tensor([side_of[label] == side for label in labels]) for side in ('left', 'right')
    )
    candidates = (best < MAX_POSTERIOR) & (left | right)[winner]
    unsure = np.zeros(best.shape, dtype=bool)

    def look(planes: slice) -> None:
        found = candidates[planes]
        probabilities = posteriors[:, planes][:, found].float().clamp_(min=1e-9)
        entropy = -(probabilities * probabilities.log2()).sum(0)
        unsure[planes][found.numpy()] = (entropy > UNSURE_BITS).numpy()

    # By slabs, since what is left of a scan that the network knows nothing of is all of it.
    map_in_threads(look, slabs(len(best)))
    regions = opened(unsure, max(1, round(BORDER_MM / spacing_mm)))
    n_left, n_both = int((regions & left[winner].numpy()).sum()), int(regions.sum())
    return n_left * spacing_mm**3, (n_both - n_left) * spacing_mm**3
