"""Compute labels and sums of posteriors on the scan's grid.

Posteriors are resampled, not labels, so that structures keep smooth borders: one channel at a
time, and only where it can be the most likely. No array of all channels on the scan's grid is
made unless the posteriors themselves are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..hardware.threads import map_in_threads
from ..images.geometry import resampling_matrix
from ..images.resampling import resample_box
from .postprocess import NOWHERE, Box, everywhere, slabs, support_box


@torch.inference_mode()
def resample_labels(
    posteriors: Tensor,
    box: Box,
    shape: tuple[int, ...],
    to_shape: tuple[int, ...],
    steps: np.ndarray,
    labels: tuple[int, ...],
    keep_posteriors: bool = False,
    boxes: Sequence[Box] | None = None,
    weights: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resample posteriors to another grid and take the label of every voxel.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        They sum to 1.
    box : tuple of slice
        Their box in the source grid; outside of it everything is background.
    shape : tuple of int
        Shape of the source grid.
    to_shape : tuple of int
        Shape of the target grid, which has the same centre and axis directions.
    steps : (3,) array
        Spacing of the target grid divided by that of the source grid.
    labels : (n_channels,) tuple of int
        Label of each channel, background first.
    keep_posteriors : bool
        Whether to return the resampled posteriors as well.
    boxes : sequence of boxes, optional
        Where each channel has posteriors; see :func:`.postprocess.supports`.
    weights : (n_channels,) tensor, optional
        The largest posterior times the weight of its channel decides, see
        :func:`.label_weights.label_weights`; without them, the largest posterior.

    Returns
    -------
    labels : (x', y', z') int16 array
    posteriors : (n_channels, x', y', z') uint8 array, or None
        Probabilities times 255.
    """
    winner = np.full(to_shape, labels[0], dtype=np.int16)
    kept = np.zeros((len(labels), *to_shape), dtype=np.uint8) if keep_posteriors else None
    matrices = _matrices(shape, to_shape, steps, box)
    # A voxel's largest probability is at least 1 / n_channels, and interpolation averages: a
    # channel below that in all neighbours cannot win, unless it weighs more than the others.
    # Stored as a byte, less than 1 / 510 is 0.
    factors = torch.ones(len(labels)) if weights is None else weights
    least = 0.99 / len(labels) * float(factors.min() / factors.max())
    floor = 1 / 512 if keep_posteriors else least
    # Outside the box is background, hence the foreground can be continued with zeros.
    volumes = [1 - posteriors[0], *posteriors[1:]]
    _, *others = boxes or everywhere(posteriors)
    foreground = support_box(volumes[0], floor=floor / 2)
    find = partial(support_box, floor=floor)
    supports = [foreground, *map_in_threads(find, volumes[1:], others)]

    def compute(rows: slice) -> None:
        planes = [matrices[0][rows], *matrices[1:]]
        found = (
            resample_box(volume, box or NOWHERE, planes)
            for volume, box in zip(volumes, supports, strict=True)
        )
        whole, foreground = next(found)
        background = 1 - foreground
        best, inside = background * factors[0], winner[rows][whole]
        if kept is not None:
            kept[0, rows] = 255
            kept[0, rows][whole] = _to_byte(background)
        for channel, (region, probability) in enumerate(found, 1):
            if kept is not None:
                kept[channel, rows][region] = _to_byte(probability)
            part = tuple(
                slice(r.start - w.start, r.stop - w.start)
                for r, w in zip(region, whole, strict=True)
            )
            weighted = probability * factors[channel]
            better = weighted > best[part]
            best[part] = torch.maximum(best[part], weighted)
            inside[part][better.numpy()] = labels[channel]

    map_in_threads(compute, slabs(to_shape[0]))
    return winner, kept


@torch.inference_mode()
def resample_sums(
    posteriors: Tensor,
    box: Box,
    shape: tuple[int, ...],
    to_shape: tuple[int, ...],
    steps: np.ndarray,
    groups: Sequence[Sequence[int]],
) -> np.ndarray:
    """Add up the posteriors of groups of channels and resample the sums to another grid.

    Parameters
    ----------
    posteriors, box, shape, to_shape, steps
        See :func:`resample_labels`.
    groups : sequence of sequence of int
        Channels of each group; none of them in two groups.

    Returns
    -------
    (n_groups, x', y', z') uint8 array
        Probabilities times 255. They are rounded so that the sum of the first groups, however
        many, is less than 1/510 off; all of them sum to at most 255.
    """
    matrices = _matrices(shape, to_shape, steps, box)
    found = np.zeros((len(groups), *to_shape), dtype=np.uint8)
    total = torch.zeros(to_shape)
    before = np.zeros(to_shape, dtype=np.uint8)
    for kept, channels in zip(found, groups, strict=True):
        if not channels:
            continue
        probability = posteriors[channels[0]].clone()
        for channel in channels[1:]:
            probability += posteriors[channel]
        region, part = _resample_support(probability, matrices, 1 / 512)
        total[region] += part
        rounded = _to_byte(total[region])
        kept[region] = rounded - before[region]
        before[region] = rounded
    return found


def _matrices(
    shape: tuple[int, ...], to_shape: tuple[int, ...], steps: np.ndarray, box: Box
) -> list[Tensor]:
    """Return the matrices that resample what is in a box of one grid to another."""
    return [
        torch.from_numpy(resampling_matrix(n_in, n_out, step)[:, part])
        for n_in, n_out, step, part in zip(shape, to_shape, steps, box, strict=True)
    ]


def _resample_support(
    probability: Tensor, matrices: list[Tensor], floor: float
) -> tuple[Box, Tensor]:
    """Resample a volume only where it exceeds a floor; return that box and the values in it."""
    support = support_box(probability, floor=floor) or NOWHERE
    return resample_box(probability, support, matrices)


def _to_byte(probability: Tensor) -> np.ndarray:
    return (probability * 255).round().clamp(0, 255).to(torch.uint8).numpy()
