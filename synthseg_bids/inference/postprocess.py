"""Clean and smooth the network's posteriors; find the most likely labels, and volumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import cc3d
import numpy as np
import torch
from torch import Tensor

from ..hardware.threads import map_in_threads
from ..images.geometry import bounding_box, nested_box, widen_box

#: Probability above which a voxel counts for the connected component to keep (the reference
#: implementation's threshold).
KEEP_THRESHOLD = 0.25
#: A voxel with less probability left takes that of its neighbours: the rest is rounding error.
LOST = 1e-3
#: Number of such voxels that are filled at once.
FILL_VOXELS = 2**16
#: Weight of each neighbour along an axis when posteriors are smoothed. On synthetic scans of
#: held-out label maps 0.11 to 0.25 do equally well, better than none.
NEIGHBOUR_WEIGHT = 0.18

#: Smaller posteriors are not smoothed.
LEAST_SUPPORT = 1e-4
#: Planes along x that a thread computes at once.
SLAB = 16

Box = tuple[slice, ...]
NOWHERE: Box = (slice(0, 0),) * 3


@torch.inference_mode()
def clean(posteriors: Tensor, groups: tuple[int, ...]) -> tuple[Tensor, Box | None]:
    """Keep the largest connected component of the brain and of every topology group.

    Components are 6-connected, of voxels with a probability above 0.25, dilated by one voxel to
    keep the partial volume on both sides of borders. Voxels that lose all of their probability
    take that of their neighbours or, outside the brain, become background.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Channel 0 is background. Changed in place if float32: a copy would be the peak of a scan's
        memory.
    groups : (n_channels,) tuple of int
        Channels of one group form one component (0: not constrained).

    Returns
    -------
    posteriors : (n_channels, x', y', z') tensor
        Inside the brain's bounding box; they sum to 1.
    box : tuple of slice, or None
        That box; outside of it everything is background. None if there is no brain.
    """
    brain = _dilate(largest_component((posteriors[0] < 1 - KEEP_THRESHOLD).numpy()))
    box = bounding_box(brain)
    if box is None:
        return posteriors[:, :0, :0, :0], None
    posteriors = posteriors[(slice(None), *box)].float()
    inside = torch.from_numpy(brain[box])
    members = [
        [channel for channel, number in enumerate(groups) if number == group]
        for group in sorted(set(groups) - {0})
    ]
    map_in_threads(partial(_keep_component, posteriors), members)
    lost = torch.empty_like(inside)

    def normalise(plane: slice) -> None:
        here = posteriors[:, plane]
        total = here.sum(0)
        torch.logical_and(inside[plane], total < LOST, out=lost[plane])
        here.mul_(inside[plane] / total.clamp_(min=LOST))
        here[0].masked_fill_(~inside[plane], 1)

    map_in_threads(normalise, [slice(x, x + 1) for x in range(len(inside))])
    if lost.any():
        posteriors *= ~lost
        fill(posteriors, lost)
    return posteriors, box


def _keep_component(posteriors: Tensor, channels: list[int]) -> None:
    """Keep the largest component of a group of channels, dilated by one voxel, in place."""
    boxes = [support_box(posteriors[channel], floor=KEEP_THRESHOLD) for channel in channels]
    reach = widen_box(join_boxes(boxes), 1, posteriors.shape[1:])
    likely = torch.zeros(posteriors[0][reach].shape, dtype=torch.bool)
    for channel in channels:
        likely |= posteriors[channel][reach] > KEEP_THRESHOLD
    component = torch.from_numpy(_dilate(largest_component(likely.numpy())))
    for channel in channels:
        kept = posteriors[channel][reach] * component
        posteriors[channel].zero_()
        posteriors[channel][reach] = kept


def fill(posteriors: Tensor, holes: Tensor) -> None:
    """Give voxels the mean posteriors of their neighbours, from the edge of each hole inwards.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Changed in place; 0 in the holes. Becomes background if there are only holes.
    holes : (x, y, z) bool tensor
        All False afterwards, except in that case.
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
        # Next are the holes beside the voxels just filled.
        x, y, z = _neighbours(where, holes.shape).flatten(0, 1).unbind(1)
        flat = ((x * holes.shape[1] + y) * holes.shape[2] + z)[holes[x, y, z]]
        where = torch.stack(torch.unravel_index(flat.unique(), holes.shape), 1)
    posteriors[0] += holes


def _neighbours(where: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the 6 neighbours of voxels ``(n, 3)``; at the edges, the voxels themselves."""
    steps = torch.cat([torch.eye(3, dtype=torch.int64), -torch.eye(3, dtype=torch.int64)])
    return torch.minimum((where[:, None] + steps).clamp_(min=0), torch.tensor(shape) - 1)


def _mean_of_neighbours(posteriors: Tensor, holes: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Average over those of the 6 neighbours that are no holes, and flag voxels that have any."""
    x, y, z = _neighbours(where, holes.shape).unbind(-1)
    usable = ~holes[x, y, z]
    edge = usable.any(1)
    usable = usable[edge]
    found = posteriors[:, x[edge], y[edge], z[edge]].mul_(usable)
    return found.sum(-1).div_(usable.sum(1)), edge


def supports(posteriors: Tensor) -> list[Box]:
    """Return for each channel a box around all posteriors above `LEAST_SUPPORT`, and a voxel more.

    It still contains them when posteriors have been smoothed and refined.
    """
    boxes = map_in_threads(partial(support_box, floor=LEAST_SUPPORT), posteriors)
    shape = posteriors.shape[1:]
    return [NOWHERE if box is None else widen_box(box, 1, shape) for box in boxes]


def everywhere(posteriors: Tensor) -> list[Box]:
    """Return the box of the whole volume for each channel."""
    return [tuple(slice(0, n) for n in posteriors.shape[1:])] * len(posteriors)


@torch.inference_mode()
def smooth(posteriors: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
    """Average each voxel with its neighbours, in place; the sum over channels does not change.

    Meant for networks with ``sub_voxels``: the output layer has different weights for the voxels
    of a block, so that posteriors at a border differ from voxel to voxel.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
    boxes : sequence of boxes, optional
        From :func:`supports`.
    """
    map_in_threads(_smooth, posteriors, supports(posteriors) if boxes is None else boxes)
    return posteriors


def _smooth(channel: Tensor, box: Box) -> None:
    part = channel[box]
    if not part.numel():
        return
    averaged = part.clone()
    for axis in range(3):
        n = part.shape[axis]
        before = averaged
        averaged = before * (1 - 2 * NEIGHBOUR_WEIGHT)
        for here, there in ((0, 1), (1, 0)):
            target = averaged.narrow(axis, here, n - 1)
            target.add_(before.narrow(axis, there, n - 1), alpha=NEIGHBOUR_WEIGHT)
        # Edge voxels are repeated outside.
        for edge in (0, n - 1):
            edges = before.select(axis, edge)
            averaged.select(axis, edge).add_(edges, alpha=NEIGHBOUR_WEIGHT)
    part.copy_(averaged)


def support_box(
    volume: Tensor, within: Sequence[slice] | None = None, *, floor: float
) -> Box | None:
    """Return the bounding box of the voxels that exceed a floor; None if there are none.

    Parameters
    ----------
    volume : (x, y, z) tensor
    within : tuple of slice, optional
        A box that they are known to lie in.
    floor : float
    """
    if within is not None:
        inner = support_box(volume[tuple(within)], floor=floor)
        return None if inner is None else nested_box(inner, within)
    if not volume.numel():
        return None
    plane = bounding_box((volume.amax(-1) > floor).numpy())
    if plane is None:
        return None
    # Both axes at once take five times as long.
    column = bounding_box((volume[plane].amax(0).amax(0) > floor).numpy())
    assert column is not None
    return (*plane, *column)


def join_boxes(boxes: Sequence[Box | None]) -> Box:
    """Return the smallest box around several; empty if there are none."""
    there = [box for box in boxes if box is not None]
    if not there:
        return NOWHERE
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*there, strict=True)
    )


def most_likely(posteriors: Tensor, boxes: Sequence[Box] | None = None) -> tuple[Tensor, Tensor]:
    """Return the largest posterior of every voxel, and its channel.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        They sum to 1. Channels are only looked at where they can be the largest.
    boxes : sequence of boxes, optional
        From :func:`supports`.

    Returns
    -------
    best : (x, y, z) tensor
    winner : (x, y, z) int64 tensor
        The first of the channels with the largest posterior.
    """
    best = posteriors[0].clone()
    winner = torch.zeros(best.shape, dtype=torch.int64)
    boxes = boxes or everywhere(posteriors)

    def compare(rows: slice) -> None:
        others = range(1, len(posteriors))
        for channel, box in boxes_in_slab(posteriors, others, boxes, rows, 0.99 / len(posteriors)):
            probability, highest = posteriors[channel, rows][box], best[rows][box]
            winner[rows][box].masked_fill_(probability > highest, channel)
            torch.maximum(highest, probability, out=highest)

    map_in_threads(compare, slabs(len(best)))
    return best, winner


def boxes_in_slab(
    posteriors: Tensor,
    channels: Iterable[int],
    boxes: Sequence[Box],
    rows: slice,
    floor: float,
) -> Iterator[tuple[int, Box]]:
    """Iterate over the channels that exceed a floor in a slab, and where in the slab they do.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
    channels : iterable of int
        Those to look at.
    boxes : sequence of boxes
        From :func:`supports`, for all channels.
    rows : slice
        The slab's planes along x; see :func:`slabs`.
    floor : float
    """
    for channel in channels:
        x, *others = boxes[channel]
        first, last = max(x.start, rows.start), min(x.stop, rows.stop)
        within = (slice(first - rows.start, max(last, first) - rows.start), *others)
        box = support_box(posteriors[channel, rows], within, floor=floor)
        if box is not None:
            yield channel, box


def slabs(length: int) -> list[slice]:
    """Cut an axis into slabs of `SLAB` planes."""
    return [slice(start, min(start + SLAB, length)) for start in range(0, length, SLAB)]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest 6-connected component of a mask."""
    component = np.zeros(mask.shape, dtype=bool)
    # Inside the bounding box only: most structures are small.
    box = bounding_box(mask)
    if box is not None:
        part = np.ascontiguousarray(mask[box])
        component[box] = cc3d.largest_k(part, k=1, connectivity=6, binary_image=True) > 0
    return component


def _dilate(mask: np.ndarray) -> np.ndarray:
    """Dilate a mask by one voxel, diagonally as well."""
    box = bounding_box(mask)
    if box is None:
        return mask
    wider = widen_box(box, 1, mask.shape)
    part = mask[wider].copy()
    for axis in range(3):
        line = np.moveaxis(part, axis, 0)
        before = line.copy()
        line[1:] |= before[:-1]
        line[:-1] |= before[1:]
    dilated = np.zeros_like(mask)
    dilated[wider] = part
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
        Number of voxels of the whole grid: everything outside the box is background.
    voxel_volume_mm3 : float
    unknown : sequence of int
        Channels that the network does not segment.

    Returns
    -------
    (n_channels,) float64 array
        In mm^3, background first; NaN for unknown ones.
    """
    # Rows in float32 first: summing in float64 from the start takes five times as long.
    volumes = posteriors.sum(-1).sum((1, 2), dtype=torch.float64).numpy()
    volumes[0] += n_voxels - posteriors[0].numel()
    volumes[list(unknown)] = np.nan
    return volumes * voxel_volume_mm3
