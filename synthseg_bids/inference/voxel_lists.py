"""Lists of the voxels that structures share: much shorter than the volumes of their posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..hardware.threads import map_in_threads
from ..images.resampling import resample
from ..linear import interpolation_matrix
from .postprocess import Box, everywhere, join_boxes, slabs, support_box

Matrices = tuple[Tensor, Tensor, Tensor]

#: Smoothness of a structure's mean intensity, and spacing of the grid it is computed on.
DRIFT_MM = 20.0
COARSE_MM = 4.0


@dataclass(frozen=True)
class Structure:
    """A structure of one or two sides: voxels with a posterior that is refined.

    Lists of voxels are much shorter than the volume, and than the structure's bounding box.

    Attributes
    ----------
    box : tuple of slice
        Bounding box of both sides.
    voxels, cells, columns : (n,) int32 tensor
        Indices of the voxels in the volume and in the box's coarse grid; and, in that grid with
        fine steps along x and y, and one more along z, of the last place before them along z.
    after : (n,) float32 tensor
        How far they are from that place to the next one, 0 to 1.
    prior : (n,) float32 tensor
        The network's posteriors.
    parts : tuple of (int, tuple of slice, slice)
        Each side's channel, box in the volume, and part of the lists.
    slabs : tuple of tuple of slice
        For each slab of the volume, the parts of the lists that lie in it.
    cell_voxels : int
        Number of voxels in a cell of the coarse grid.
    least : float
        Least of the network's posteriors in the lists.
    blur : three matrices
        They blur the coarse grid by a Gaussian of `DRIFT_MM`, with zeros outside.
    enlarge : two matrices
        They interpolate the coarse grid along x and y.
    """

    box: Box
    voxels: Tensor
    cells: Tensor
    columns: Tensor
    after: Tensor
    prior: Tensor
    parts: tuple[tuple[int, Box, slice], ...]
    slabs: tuple[tuple[slice, ...], ...]
    cell_voxels: int
    least: float
    blur: Matrices
    enlarge: tuple[Tensor, Tensor]

    def interpolated(self, coarse: Tensor) -> Tensor:
        """Interpolate a volume on the coarse grid in the voxels, linearly.

        Along z that is done for each voxel: most structures are a small part of their box.
        """
        wider = torch.cat([coarse, coarse[..., -1:]], -1)
        fine = resample(wider, (*self.enlarge, torch.eye(wider.shape[2]))).reshape(-1)
        before = fine.index_select(0, self.columns)
        return before.lerp_(fine[1:].index_select(0, self.columns), self.after)


def list_structures(
    posteriors: Tensor,
    mirror: Sequence[int],
    spacing_mm: float,
    least: float,
    within: Sequence[Box] | None = None,
) -> list[Structure]:
    """List the structures that have any voxel of at least this posterior, the largest first.

    Threads that compute them in this order end at about the same time. All these voxels are known
    to lie within the boxes, if given, of each channel.
    """
    find = partial(support_box, floor=least)
    boxes = map_in_threads(find, posteriors, within or everywhere(posteriors))
    pairs = [sorted({c, int(mirror[c])}) for c in range(1, len(mirror)) if c <= mirror[c]]
    there = ([channel for channel in pair if boxes[channel] is not None] for pair in pairs)

    def gather(pair: list[int]) -> Structure:
        return _structure(posteriors, pair, boxes, spacing_mm, least)

    found = map_in_threads(gather, filter(None, there))
    return sorted(found, key=lambda one: len(one.voxels), reverse=True)


def _structure(
    posteriors: Tensor,
    channels: list[int],
    boxes: Sequence[Box | None],
    spacing_mm: float,
    least: float,
) -> Structure:
    sides = [box for channel in channels if (box := boxes[channel]) is not None]
    box = join_boxes(sides)
    step = max(1, round(COARSE_MM / spacing_mm))
    size = [part.stop - part.start for part in box]
    coarse = [-(-n // step) for n in size]
    places = [_centres(n, step).clamp_(0, m - 1) for n, m in zip(size, coarse, strict=True)]
    lists, parts, first = [], [], 0
    for channel, side in zip(channels, sides, strict=True):
        values = posteriors[channel][side].flatten()
        likely = (values >= least).nonzero()[:, 0]
        x, y, z = (
            torch.arange(p.start - o.start, p.stop - o.start)
            for p, o in zip(side, box, strict=True)
        )
        outer = [torch.arange(part.start, part.stop) for part in side]
        along = places[2][z]
        tables = (
            _flat_index(outer, posteriors.shape[1:]),
            _flat_index([x // step, y // step, z // step], coarse),
            _flat_index([x, y, along], [size[0], size[1], coarse[2] + 1]),
            along.frac().expand(len(x), len(y), -1).flatten(),
            values,
        )
        lists.append([table.index_select(0, likely) for table in tables])
        parts.append((channel, side, slice(first, first := first + len(likely))))
    voxels, cells, columns, after, prior = (torch.cat(part) for part in zip(*lists, strict=True))
    cuts = _cut(voxels, [part for *_, part in parts], posteriors.shape[1:])
    x, y, z = (_gaussian(n, DRIFT_MM / (step * spacing_mm)) for n in coarse)
    blur = x, y, z
    x, y = (interpolation_matrix(places[axis], coarse[axis]) for axis in (0, 1))
    found = voxels, cells, columns, after, prior
    return Structure(box, *found, tuple(parts), cuts, step**3, least, blur, (x, y))


def _cut(
    voxels: Tensor, sides: Sequence[slice], shape: Sequence[int]
) -> tuple[tuple[slice, ...], ...]:
    """Cut the list of each side, which is in ascending order, where slabs of a volume begin."""
    starts = [part.start for part in slabs(shape[0])] + [shape[0]]
    first = torch.tensor(starts, dtype=torch.int32) * shape[1] * shape[2]
    cuts = [(torch.searchsorted(voxels[side], first) + side.start).tolist() for side in sides]
    return tuple(
        tuple(slice(cut[i], cut[i + 1]) for cut in cuts if cut[i] < cut[i + 1])
        for i in range(len(starts) - 1)
    )


def at(volume: Tensor, voxels: Tensor) -> Tensor:
    """Return the values of a volume in a list of voxels."""
    return volume.view(-1).index_select(0, voxels)


def add_up(volume: Tensor, structures: Sequence[Structure], values: Sequence[Tensor]) -> None:
    """Add lists of values to a volume in place, several slabs of it at once.

    Parameters
    ----------
    volume : (x, y, z) tensor
    structures : sequence of Structure
    values : sequence of (n,) tensors
        For each structure, values of its voxels.
    """
    flat = volume.view(-1)

    def add(number: int) -> None:
        for one, found in zip(structures, values, strict=True):
            for part in one.slabs[number]:
                flat.index_add_(0, one.voxels[part], found[part])

    map_in_threads(add, range(len(slabs(len(volume)))))


def _flat_index(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Return the indices in a flattened volume of the voxels of a grid, as int32.

    Parameters
    ----------
    places : three (n,) tensors
        Where the grid's planes lie along each axis.
    shape : (3,) sequence of int
        Shape of the volume.
    """
    x, y, z = (part.int() for part in places)
    rows = x[:, None] * shape[1] + y
    return (rows[:, :, None] * shape[2] + z).flatten()


def _gaussian(size: int, sigma: float) -> Tensor:
    """Return the matrix of a Gaussian blur, with zeros outside."""
    reach = math.ceil(3 * sigma)
    index = torch.arange(size)
    distance = index[:, None] - index
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= reach)
    return matrix / kernel.sum()


def _centres(size: int, step: int) -> Tensor:
    """Return where voxels lie between the centres of cells of `step` voxels."""
    return (torch.arange(size) + 0.5) / step - 0.5
