"""From the network's posteriors to labels and volumes on the scan's own grid.

What returns to the scan's grid are the posteriors, not the labels, so that structures keep smooth
borders. They return one channel at a time, each only where it can win: no array of all channels
on the scan's grid is made unless the posteriors themselves are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..images.geometry import bounding_box, resample, resampling_matrix

#: Foreground probability above which a voxel counts as brain when choosing the connected body to
#: keep (the reference implementation's threshold).
KEEP_THRESHOLD = 0.25
#: A voxel that has kept less of its probability is like its neighbours: what is left is rounding.
LOST = 1e-3
#: Such voxels whose neighbours are looked at at once.
FILL_VOXELS = 2**16
#: Of each of the two neighbours along an axis, where posteriors are smoothed. On synthetic scans
#: of held-out label maps 0.11 to 0.25 do equally well, better than none.
NEIGHBOUR_WEIGHT = 0.18

Box = tuple[slice, ...]


@torch.inference_mode()
def clean(posteriors: Tensor, groups: tuple[int, ...]) -> tuple[Tensor, Box | None]:
    """Keep the largest body of the brain, and of every structure that is one body.

    Bodies are the 6-connected components of what is likelier than 0.25. They keep the voxels that
    touch them, too, because the unlikely side of a border says where within a voxel it runs. What
    is cut off is what else it may be, or else what surrounds it; outside of the brain, background.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Channel 0 is background. Changed in place where it is in float32: a copy would be the
        peak of the memory that a scan takes.
    groups : (n_channels,) tuple of int
        Channels of one group form one body (0: not constrained).

    Returns
    -------
    posteriors : (n_channels, x', y', z') tensor
        Inside the brain's bounding box; they sum to 1.
    box : tuple of slice, or None
        That box; outside of it everything is background. None where there is no brain.
    """
    brain = _dilate(largest_body((posteriors[0] < 1 - KEEP_THRESHOLD).numpy()))
    box = bounding_box(brain)
    if box is None:
        return posteriors[:, :0, :0, :0], None
    posteriors = posteriors[(slice(None), *box)].float()
    posteriors[1:] *= torch.from_numpy(brain[box])
    for group in sorted(set(groups) - {0}):
        channels = [channel for channel, g in enumerate(groups) if g == group]
        likely = torch.zeros(posteriors.shape[1:], dtype=torch.bool)
        for channel in channels:
            likely |= posteriors[channel] > KEEP_THRESHOLD
        body = torch.from_numpy(_dilate(largest_body(likely.numpy())))
        for channel in channels:
            posteriors[channel] *= body
    total = posteriors.sum(0)
    lost = total < LOST
    posteriors.div_(total.clamp_(min=LOST))
    if lost.any():
        inside = torch.from_numpy(brain[box])
        posteriors *= ~lost
        posteriors[0] += lost & ~inside
        fill(posteriors, lost & inside)
    return posteriors, box


def fill(posteriors: Tensor, holes: Tensor) -> None:
    """Give voxels the mean posteriors of their neighbours, from the edge of each hole inwards.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Changed in place, 0 in the holes. Background where nothing but holes is left.
    holes : (x, y, z) bool tensor
        All False afterwards, but in that case.
    """
    where = holes.nonzero()
    while len(where):
        means, edges = zip(
            *(_mean_of_neighbours(posteriors, holes, part) for part in where.split(FILL_VOXELS)),
            strict=True,
        )
        where = where[torch.cat(edges)]
        x, y, z = where.unbind(1)
        posteriors[:, x, y, z] = torch.cat(means, 1)
        holes[x, y, z] = False
        # What is left to be filled next lies beside what has just been.
        x, y, z = _neighbours(where, holes.shape).flatten(0, 1).unbind(1)
        flat = ((x * holes.shape[1] + y) * holes.shape[2] + z)[holes[x, y, z]]
        where = torch.stack(torch.unravel_index(flat.unique(), holes.shape), 1)
    posteriors[0] += holes


def _neighbours(where: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the 6 neighbours of voxels ``(n, 3)``; at the edges, voxels themselves."""
    steps = torch.cat([torch.eye(3, dtype=torch.int64), -torch.eye(3, dtype=torch.int64)])
    return torch.minimum((where[:, None] + steps).clamp_(min=0), torch.tensor(shape) - 1)


def _mean_of_neighbours(posteriors: Tensor, holes: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Average those of the 6 neighbours of voxels that are no holes; tell which have any."""
    x, y, z = _neighbours(where, holes.shape).unbind(-1)
    usable = ~holes[x, y, z]
    edge = usable.any(1)
    usable = usable[edge]
    found = posteriors[:, x[edge], y[edge], z[edge]].mul_(usable)
    return found.sum(-1).div_(usable.sum(1)), edge


@torch.inference_mode()
def smooth(posteriors: Tensor) -> Tensor:
    """Average each voxel with its neighbours, in place.

    For networks whose output layer has several voxels to one of its features: each of them has
    weights of its own, and what they say of a border differs from voxel to voxel.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        They go on summing to 1.
    """
    for channel in posteriors:
        for axis in range(3):
            n = channel.shape[axis]
            first, last = (channel.select(axis, i).clone() for i in (0, n - 1))
            before = channel.narrow(axis, 0, n - 1).clone()
            after = channel.narrow(axis, 1, n - 1).clone()
            channel.mul_(1 - 2 * NEIGHBOUR_WEIGHT)
            channel.narrow(axis, 1, n - 1).add_(before, alpha=NEIGHBOUR_WEIGHT)
            channel.narrow(axis, 0, n - 1).add_(after, alpha=NEIGHBOUR_WEIGHT)
            # What lies outside is like the voxel at the edge.
            channel.select(axis, 0).add_(first, alpha=NEIGHBOUR_WEIGHT)
            channel.select(axis, n - 1).add_(last, alpha=NEIGHBOUR_WEIGHT)
    return posteriors


def largest_body(mask: np.ndarray) -> np.ndarray:
    """Return the largest 6-connected component of a mask."""
    body = np.zeros(mask.shape, dtype=bool)
    # Inside the bounding box only: most structures are small.
    box = bounding_box(mask)
    if box is not None:
        part = np.ascontiguousarray(mask[box])
        body[box] = cc3d.largest_k(part, k=1, connectivity=6, binary_image=True) > 0
    return body


def _dilate(body: np.ndarray) -> np.ndarray:
    """Add the voxels that touch a body, diagonally, too."""
    box = bounding_box(body)
    if box is None:
        return body
    grown = tuple(
        slice(max(part.start - 1, 0), min(part.stop + 1, n))
        for part, n in zip(box, body.shape, strict=True)
    )
    part = torch.from_numpy(body[grown].astype(np.float32))
    dilated = np.zeros_like(body)
    dilated[grown] = functional.max_pool3d(part[None], 3, stride=1, padding=1)[0].numpy() > 0
    return dilated


def soft_volumes(
    posteriors: Tensor, n_voxels: int, voxel_volume_mm3: float, unknown: Sequence[int] = ()
) -> np.ndarray:
    """Sum the posteriors of each channel.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Inside the brain's bounding box.
    n_voxels : int
        Of the whole grid: what lies outside the box is background.
    voxel_volume_mm3 : float
        Of that grid.
    unknown : sequence of int
        Channels that the network does not segment.

    Returns
    -------
    (n_channels,) float64 array
        In mm^3, background first; NaN for unknown ones.
    """
    # Line by line first: summing in float64 from the start takes five times as long.
    volumes = posteriors.sum(-1).sum((1, 2), dtype=torch.float64).numpy()
    volumes[0] += n_voxels - posteriors[0].numel()
    volumes[list(unknown)] = np.nan
    return volumes * voxel_volume_mm3


@torch.inference_mode()
def resample_labels(
    posteriors: Tensor,
    box: Box,
    shape: tuple[int, ...],
    to_shape: tuple[int, ...],
    steps: np.ndarray,
    labels: tuple[int, ...],
    keep_posteriors: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resample posteriors to another grid and take the most likely label of every voxel.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        They sum to 1.
    box : tuple of slice
        Where in their grid they lie; outside of it everything is background.
    shape : tuple of int
        Of their grid.
    to_shape : tuple of int
        Of the other grid, which has the same centre and axis directions.
    steps : (3,) array
        Spacing of the other grid divided by that of theirs.
    labels : (n_channels,) tuple of int
        Label of each channel, background first.
    keep_posteriors : bool
        Whether to return the resampled posteriors, too.

    Returns
    -------
    labels : (x', y', z') int16 array
    posteriors : (n_channels, x', y', z') uint8 array, or None
        Probabilities times 255.
    """
    winner = np.full(to_shape, labels[0], dtype=np.int16)
    kept = np.zeros((len(labels), *to_shape), dtype=np.uint8) if keep_posteriors else None
    matrices = [
        torch.from_numpy(resampling_matrix(n_in, n_out, step)[:, part])
        for n_in, n_out, step, part in zip(shape, to_shape, steps, box, strict=True)
    ]
    # The largest probability of a voxel is at least 1 / n_channels, and interpolation is an
    # average: a channel cannot win where all the neighbours are below that. Nor can it be seen,
    # stored as a byte, below 1 / 510.
    floor = 1 / 512 if keep_posteriors else 0.99 / len(labels)
    # Outside the box is background, so it is the foreground that can be continued with 0.
    whole, foreground = _resample_support(1 - posteriors[0], matrices, floor / 2)
    best = 1 - foreground
    if kept is not None:
        kept[0] = 255
        kept[0][whole] = _to_byte(best)
    inside = winner[whole]
    for channel in range(1, len(labels)):
        region, probability = _resample_support(posteriors[channel], matrices, floor)
        if kept is not None:
            kept[channel][region] = _to_byte(probability)
        part = tuple(
            slice(r.start - w.start, r.stop - w.start) for r, w in zip(region, whole, strict=True)
        )
        better = probability > best[part]
        best[part] = torch.maximum(best[part], probability)
        inside[part][better.numpy()] = labels[channel]
    return winner, kept


def _resample_support(
    probability: Tensor, matrices: list[Tensor], floor: float
) -> tuple[Box, Tensor]:
    """Resample a volume only where it exceeds a floor; return where that is, and the values."""
    nothing = (slice(0, 0),) * 3, probability[:0, :0, :0]
    support = bounding_box((probability > floor).numpy())
    if support is None:
        return nothing
    rows, columns, parts = [], [], []
    for matrix, span in zip(matrices, support, strict=True):
        reached = torch.nonzero(matrix[:, span].sum(1))[:, 0]
        if len(reached) == 0:  # narrower than the output's spacing, between two voxels
            return nothing
        rows.append(slice(int(reached[0]), int(reached[-1]) + 1))
        used = torch.nonzero(matrix[rows[-1]].sum(0))[:, 0]
        columns.append(slice(int(used[0]), int(used[-1]) + 1))
        parts.append(matrix[rows[-1], columns[-1]])
    return tuple(rows), resample(probability[tuple(columns)].contiguous(), parts)


def _to_byte(probability: Tensor) -> np.ndarray:
    return (probability * 255).round().clamp(0, 255).to(torch.uint8).numpy()
