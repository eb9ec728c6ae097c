"""Compute the posteriors of an image on the network grid, within the available memory.

The image is padded and passed through the network as it is and mirrored, and both posteriors are
averaged (:mod:`.output`), by a plan that fits the memory (:mod:`.memory_plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..hardware.device import available_bytes
from ..hardware.memory import GAPS, release
from .engine import Engine
from .memory_plan import ROWS, Plan, choose_plan, predicted_bytes, tile_slices
from .output import Passes, around_brain
from .postprocess import Box
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
    box : tuple of slice
        Their box in the image; outside of it everything is background.
    counts : (3, n_channels) int64 tensor
        Number of voxels with each label in both passes, in the straight one, and in the mirrored
        one, padding included; zeros without a mirrored pass. With ``sub_voxels``, one voxel of
        each block is counted.
    """

    posteriors: Tensor
    box: Box
    counts: Tensor

    @property
    def flip_dice(self) -> np.ndarray | None:
        """Dice of the labels of both passes, (n_channels,) float32 array.

        None without a mirrored pass; NaN for labels that occur in neither.
        """
        if not self.counts.any():
            return None
        both, straight, flipped = self.counts.double()
        return (2 * both / (straight + flipped)).float().numpy()


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
    if plan is None:
        plan = _fitting_plan(engine, image.shape, mirror is not None, _n_kept(engine, channels))
    scaled = torch.from_numpy(rescale_intensities(image))
    if plan.tiles > 1:
        return _infer_tiles(engine, scaled, mirror, plan, channels)
    return infer(engine, scaled, mirror, plan.storage, channels, plan.by_rows, brain_only=True)


def _infer_tiles(
    engine: Engine,
    image: Tensor,
    mirror: np.ndarray | None,
    plan: Plan,
    channels: Sequence[int] | None,
) -> Prediction:
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
    posteriors = torch.empty((_n_kept(engine, channels), *shape), dtype=plan.storage)
    counts = torch.zeros(3, engine.config.out_channels, dtype=torch.int64)
    for seen, kept in tile_slices(image.shape[axis], plan.tiles, multiple):
        tile = image.narrow(axis, seen.start, seen.stop - seen.start)
        found = infer(engine, tile, mirror, plan.storage, channels, plan.by_rows)
        counts += found.counts
        first, last = max(kept.start, before), min(kept.stop, before + n)
        part = found.posteriors.narrow(axis + 1, first - seen.start, last - first)
        posteriors.narrow(axis + 1, first - before, last - first).copy_(part)
    return Prediction(posteriors, tuple(slice(0, n) for n in shape), counts)


def _n_kept(engine: Engine, channels: Sequence[int] | None) -> int:
    """Return the number of channels whose posteriors are kept; None stands for all."""
    return engine.config.out_channels if channels is None else len(channels)


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
    brain_only: bool = False,
) -> Prediction:
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
    brain_only : bool
        Whether voxels that are far from anything but background may be called background, and
        left away at the borders of the image; for networks with ``sub_voxels``.

    Returns
    -------
    Prediction
    """
    config = engine.config
    # At least two voxels at the deepest level: a single one has no variance to normalise by.
    multiple, side = config.size_multiple, config.sub_voxels
    padded = [max(-(-n // multiple), 2) * multiple for n in image.shape]
    before = [(p - n) // 2 for p, n in zip(padded, image.shape, strict=True)]
    _, *inside = (slice(b, b + n) for b, n in zip(before, image.shape, strict=True))
    x = torch.zeros((1, 1, *padded))
    x[0, 0, before[0] : before[0] + len(image)][(slice(None), *inside)] = image
    straight = _features(engine, x, by_rows)
    flipped = None if mirror is None else _features(engine, x.flip(2), by_rows)
    del x
    swap = None if mirror is None else torch.from_numpy(mirror).to(engine.device)
    whole: Box = tuple(slice(0, n // side) for n in padded)
    if brain_only and side > 1:
        passes = Passes(engine, straight(whole[0]), flipped and flipped(whole[0]), swap)
        posteriors, reached, counts = around_brain(passes, storage, channels)
    else:
        kept = range(config.out_channels) if channels is None else channels
        posteriors, reached = torch.empty((len(kept), *padded), dtype=storage), whole
        counts = torch.zeros(3, config.out_channels, dtype=torch.int64)
        n_rows = whole[0].stop
        for start in range(0, n_rows, ROWS if by_rows else n_rows):
            stop = min(start + ROWS, n_rows) if by_rows else n_rows
            rows, back = slice(start, stop), slice(n_rows - stop, n_rows - start)
            passes = Passes(engine, straight(rows), flipped and flipped(back), swap)
            part = posteriors[:, side * start : side * stop]
            counts += passes.write(part, passes.whole, kept)
    return Prediction(*_without_padding(posteriors, reached, before, image.shape, side), counts)


def _features(engine: Engine, x: Tensor, by_rows: bool) -> Callable[[slice], Tensor]:
    if by_rows:
        return engine.features_by_rows(x, ROWS)
    whole = engine.features(x)
    return lambda rows: whole[:, :, rows]


def _without_padding(
    posteriors: Tensor, reached: Box, before: Sequence[int], shape: Sequence[int], side: int
) -> tuple[Tensor, Box]:
    """Leave padding away; return posteriors and their box in the image.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
    reached : tuple of slice
        Their box in the padded image, in voxels of the network's first level.
    before : (3,) sequence of int
        Padding in front of the image.
    shape : (3,) sequence of int
        Shape of the image.
    side : int
        Voxels of the image along each side of a voxel of the network's first level.
    """
    here, box = [], []
    for part, skipped, n in zip(reached, before, shape, strict=True):
        offset = side * part.start - skipped
        first = max(offset, 0)
        last = max(min(side * part.stop - skipped, n), first)
        box.append(slice(first, last))
        here.append(slice(first - offset, last - offset))
    return posteriors[(slice(None), *here)], tuple(box)
