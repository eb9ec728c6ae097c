"""Compute the posteriors of an image on the network grid, within the available memory.

The image is padded and passed through the network as it is and mirrored; both softmax outputs are
averaged slab by slab, by a plan that fits the memory (see :mod:`.memory_plan`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..hardware.device import available_bytes
from ..hardware.memory import GAPS, release
from .engine import Engine, slabs
from .memory_plan import ROWS, Plan, choose_plan, predicted_bytes, tile_slices
from .preprocess import rescale_intensities

#: Bytes that a process may grow to before it returns the memory that earlier passes have freed.
PROMISED = 5_000_000_000


@dataclass(frozen=True)
class Prediction:
    """The network's output for an image.

    Attributes
    ----------
    posteriors : (n_channels, x, y, z) tensor
        On the CPU, in the plan's number format.
    flip_dice : (n_channels,) float32 array, or None
        Dice of the labels of the straight and the mirrored pass; None without a mirrored pass,
        NaN for labels that occur in neither.
    """

    posteriors: Tensor
    flip_dice: np.ndarray | None


def predict(
    engine: Engine,
    image: np.ndarray,
    mirror: np.ndarray | None = None,
    plan: Plan | None = None,
    channels: Sequence[int] | None = None,
) -> Prediction:
    """Compute the posteriors of an image.

    Parameters
    ----------
    engine : Engine
    image : (x, y, z) float32 array
        On the network grid; rescaled to [0, 1] here, then padded with 0.
    mirror : (n_channels,) integer array, optional
        Channel permutation of a left/right flip; if given, the posteriors are averaged with those
        of the flipped image.
    plan : Plan, optional
        By default the best one for the free memory.
    channels : sequence of int, optional
        Channels whose posteriors to return (default: all).

    Returns
    -------
    Prediction
    """
    channels = range(engine.config.out_channels) if channels is None else channels
    if plan is None:
        plan = _fitting_plan(engine, image.shape, mirror is not None, len(channels))
    scaled = torch.from_numpy(rescale_intensities(image))
    if plan.tiles == 1:
        posteriors, counts = infer(engine, scaled, mirror, plan.storage, channels, plan.by_rows)
    else:
        posteriors, counts = _infer_tiles(engine, scaled, mirror, plan, channels)
    if mirror is None:
        return Prediction(posteriors, None)
    both, straight, flipped = counts.double()
    return Prediction(posteriors, (2 * both / (straight + flipped)).float().numpy())


def _infer_tiles(
    engine: Engine, image: Tensor, mirror: np.ndarray | None, plan: Plan, channels: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Do as :func:`infer`, in tiles along the longest axis."""
    axis = int(np.argmax(image.shape))
    n, multiple = image.shape[axis], engine.config.size_multiple
    before = -n % multiple // 2
    # Pad as `infer` would pad the whole image, so that it does not pad tiles along this axis.
    widths = [0] * 6
    widths[4 - 2 * axis : 6 - 2 * axis] = before, -n % multiple - before
    image = functional.pad(image, widths)
    shape = list(image.shape)
    shape[axis] = n
    posteriors = torch.empty((len(channels), *shape), dtype=plan.storage)
    counts = torch.zeros(3, engine.config.out_channels, dtype=torch.int64)
    for seen, kept in tile_slices(image.shape[axis], plan.tiles, multiple):
        tile = image.narrow(axis, seen.start, seen.stop - seen.start)
        found, counted = infer(engine, tile, mirror, plan.storage, channels, plan.by_rows)
        counts += counted
        first, last = max(kept.start, before), min(kept.stop, before + n)
        part = found.narrow(axis + 1, first - seen.start, last - first)
        posteriors.narrow(axis + 1, first - before, last - first).copy_(part)
    return posteriors, counts


def _fitting_plan(engine: Engine, shape: tuple[int, ...], flip: bool, n_channels: int) -> Plan:
    """Choose the plan for the free memory; return what earlier passes have freed if it is low."""

    def free() -> int:
        found = available_bytes(engine.device)
        return min(found, engine.memory_limit or found)

    case = engine.config, shape, engine.dtype.itemsize, flip
    if engine.device.type != 'cpu':  # posteriors are kept on the CPU all the same
        n_channels = 0
    needed = predicted_bytes(*case, Plan(), n_channels)
    if engine.device.type == 'cpu' and GAPS * needed > min(free(), PROMISED):
        release()
    return choose_plan(*case, free(), n_channels)


@torch.inference_mode()
def infer(
    engine: Engine,
    image: Tensor,
    mirror: np.ndarray | None = None,
    storage: torch.dtype = torch.float32,
    channels: Sequence[int] | None = None,
    by_rows: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the posteriors of a rescaled image in one piece.

    Parameters
    ----------
    engine : Engine
    image : (x, y, z) float32 tensor
        In [0, 1]; padded with 0 here.
    mirror : (n_channels,) integer array, optional
        See :func:`predict`.
    storage : torch.dtype
        Number format of the posteriors.
    channels : sequence of int, optional
        Channels whose posteriors to return (default: all).
    by_rows : bool
        See :class:`Plan`.

    Returns
    -------
    posteriors : (n_channels, x, y, z) tensor
    counts : (3, n_channels) int64 tensor
        Number of voxels with each label in both passes, in the straight one, and in the mirrored
        one, padding included; zeros without a mirrored pass. With ``sub_voxels``, one voxel of
        each block is counted.
    """
    config = engine.config
    # At least two voxels at the deepest level: a single one has no variance to normalise by.
    multiple = config.size_multiple
    padded = [max(-(-n // multiple), 2) * multiple for n in image.shape]
    before = [(p - n) // 2 for p, n in zip(padded, image.shape, strict=True)]
    _, *inside = (slice(b, b + n) for b, n in zip(before, image.shape, strict=True))
    x = torch.zeros((1, 1, *padded))
    x[0, 0, before[0] : before[0] + len(image)][(slice(None), *inside)] = image
    straight = _features(engine, x, by_rows)
    flipped = None if mirror is None else _features(engine, x.flip(2), by_rows)
    del x
    swap = None if mirror is None else torch.from_numpy(mirror).to(engine.device)
    n_channels = config.out_channels if channels is None else len(channels)
    posteriors = torch.empty((n_channels, *image.shape), dtype=storage)
    counts = torch.zeros(3, config.out_channels, dtype=torch.int64)
    n_rows = padded[0] // config.sub_voxels
    thickness = ROWS if by_rows else n_rows
    for start, one, other, slab in _slabs(straight, flipped, n_rows, thickness, config.positions):
        found = engine.logits(one, slab).softmax(1)
        if other is not None:
            again = engine.logits(other, slab, swap).softmax(1)
            counts += _count(found[0], again[0]).cpu()
            found.add_(again).mul_(0.5)
        if channels is not None and list(channels) != list(range(config.out_channels)):
            found = found[:, channels]
        first = config.sub_voxels * (start + slab.start)
        _place(posteriors, found.to(posteriors), [before[0] - first, *before[1:]])
    return posteriors, counts


def _place(posteriors: Tensor, found: Tensor, before: Sequence[int]) -> None:
    """Write the posteriors of a slab where they belong, without padding.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        Of the image.
    found : (positions, n_channels, x', y', z') tensor
        See :meth:`.engine.Engine.logits`.
    before : (3,) sequence of int
        First voxel of the image, counted from the first one of the slab; may be negative.
    """
    step = round(len(found) ** (1 / 3))
    for part, offsets in zip(found, itertools.product(range(step), repeat=3), strict=True):
        here, there = [], []
        for offset, skipped, n, size in zip(
            offsets, before, part.shape[1:], posteriors.shape[1:], strict=True
        ):
            first = max(-(-(skipped - offset) // step), 0)
            last = max(min(-(-(skipped + size - offset) // step), n), first)
            start = first * step + offset - skipped
            here.append(slice(first, last))
            there.append(slice(start, start + (last - first) * step, step))
        posteriors[(slice(None), *there)] = part[(slice(None), *here)]


def _features(engine: Engine, x: Tensor, by_rows: bool) -> Callable[[slice], Tensor]:
    if by_rows:
        return engine.features_by_rows(x, ROWS)
    whole = engine.features(x)
    return lambda rows: whole[:, :, rows]


def _slabs(
    straight: Callable[[slice], Tensor],
    flipped: Callable[[slice], Tensor] | None,
    n_rows: int,
    thickness: int,
    positions: int,
) -> Iterator[tuple[int, Tensor, Tensor | None, slice]]:
    """Yield the first row of features of both passes, these features, and each slab of them."""
    for start in range(0, n_rows, thickness):
        stop = min(start + thickness, n_rows)
        one = straight(slice(start, stop))
        other = None if flipped is None else flipped(slice(n_rows - stop, n_rows - start))
        for slab in slabs(one, positions):
            yield start, one, other, slab


def _count(straight: Tensor, flipped: Tensor) -> Tensor:
    """Count the voxels of each label: in both passes, in the first, and in the second."""
    n = len(straight)
    one, other = _likeliest(straight).flatten(), _likeliest(flipped).flatten()
    both = one[one == other]
    return torch.stack([part.bincount(minlength=n) for part in (both, one, other)])


def _likeliest(posteriors: Tensor) -> Tensor:
    """Return ``posteriors.argmax(0)``; on a CPU, where that is slow, computed as uint8."""
    if posteriors.is_cuda:
        return posteriors.argmax(0)
    best = posteriors[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8)
    higher = torch.empty(best.shape, dtype=torch.bool)
    for channel in range(1, len(posteriors)):
        torch.gt(posteriors[channel], best, out=higher)
        torch.maximum(found, higher.view(torch.uint8).mul_(channel), out=found)
        torch.maximum(best, posteriors[channel], out=best)
    return found
