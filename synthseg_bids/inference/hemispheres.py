"""What the parcel network sees: the tissue classes of one hemisphere, at 2 mm in its box.

Maps of five classes and three coordinates are the input. The right hemisphere is mirrored, so that
one network serves both. Training (:mod:`synthseg_bids.training.parcel_samples`) and inference
(:mod:`.parcels`) share this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..images.geometry import bounding_box, resampling_matrix
from ..images.resampling import resample
from ..labels import segmentation_labels
from .postprocess import Box

#: Segmentation labels of each class on the left side: cortex, white matter, deep grey matter,
#: ventricles, cerebellum with brainstem. The first two make up the hemisphere's box.
LEFT_CLASSES = ((3,), (2,), (10, 11, 12, 13, 17, 18, 26, 28), (4, 5, 14, 15), (7, 8, 16))
_MIRROR = {label.index: label.mirror for label in segmentation_labels()}
#: The same on both sides.
CLASSES = {
    'left': LEFT_CLASSES,
    'right': tuple(tuple(_MIRROR[label] for label in one) for one in LEFT_CLASSES),
}
#: Input channels: classes, then coordinates along x (lateral to medial), y and z.
N_INPUTS = len(LEFT_CLASSES) + 3
#: Voxel size of the parcel network, in mm.
SPACING_MM = 2.0
#: Probability of cortex or white matter above which a voxel belongs to the hemisphere.
INSIDE = 0.5


@dataclass(frozen=True)
class HemisphereGrid:
    """Grid of the parcel network: it has the same centre as the hemisphere's box.

    Attributes
    ----------
    box : tuple of slice
        Box of the hemisphere in the source grid.
    step : float
        Source voxels per network voxel.
    shape : (3,) tuple of int
    """

    box: Box
    step: float
    shape: tuple[int, ...]

    def located(self, position: Tensor, axis: int) -> Tensor:
        """Return positions along an axis in voxels of this grid, given those in source voxels."""
        part = self.box[axis]
        centre = (part.start + part.stop - 1) / 2
        return (position - centre) / self.step + (self.shape[axis] - 1) / 2


def hemisphere_input(
    posteriors: Tensor, labels: Sequence[int], side: str, spacing_mm: float, multiple: int
) -> tuple[Tensor, HemisphereGrid] | None:
    """Return the network's input for a hemisphere, and its grid.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
        In RAS orientation.
    labels : (n_channels,) sequence of int
        Segmentation label of each channel.
    side : {'left', 'right'}
        The right hemisphere is mirrored.
    spacing_mm : float
        Voxel size.
    multiple : int
        Sides of the grid are multiples of it.

    Returns
    -------
    maps : (1, 8, x', y', z') float32 tensor
        Maps of five classes, in [0, 1], and three coordinates, which are -1 and 1 at the ends of
        the hemisphere's box. In channels-last memory layout.
    grid : HemisphereGrid
        Or None instead of both, if there is nothing of the hemisphere.
    """
    channels = [[labels.index(one) for one in wanted if one in labels] for wanted in CLASSES[side]]
    cerebrum = sum_channels(posteriors, channels[0] + channels[1])
    box = bounding_box((cerebrum > INSIDE).numpy())
    if box is None:
        return None
    step = SPACING_MM / spacing_mm
    sides = [part.stop - part.start for part in box]
    sizes = [max(math.ceil(n / step), 2 * multiple) for n in sides]
    grid = HemisphereGrid(box, step, tuple(n + -n % multiple for n in sizes))
    margins = [
        max(math.ceil((n * step - side) / 2), 0) + 1
        for n, side in zip(grid.shape, sides, strict=True)
    ]
    matrices = [
        torch.from_numpy(resampling_matrix(side + 2 * margin, n, step))
        for side, margin, n in zip(sides, margins, grid.shape, strict=True)
    ]
    window = _window(box, margins, posteriors.shape[1:])
    maps = [
        resample(functional.pad(sum_channels(posteriors[window.part], own), window.pad), matrices)
        for own in channels
    ]
    if side == 'right':
        maps = [one.flip(0) for one in maps]
    axes = [
        (torch.arange(n) - (n - 1) / 2) * (2 * step / length)
        for n, length in zip(grid.shape, sides, strict=True)
    ]
    stacked = torch.stack([*maps, *torch.meshgrid(*axes, indexing='ij')])[None]
    return stacked.contiguous(memory_format=torch.channels_last_3d), grid


class _Window(NamedTuple):
    """Part of a volume, and what is to be padded for a box that reaches beyond it."""

    part: tuple[slice, ...]
    pad: list[int]


def _window(box: Box, margins: Sequence[int], shape: Sequence[int]) -> _Window:
    part, pad = [slice(None)], list[int]()
    for one, margin, n in zip(box, margins, shape, strict=True):
        first, last = one.start - margin, one.stop + margin
        part.append(slice(max(first, 0), min(last, n)))
        # Padding is listed from the last axis to the first.
        pad[:0] = [max(-first, 0), max(last - n, 0)]
    return _Window(tuple(part), pad)


def sum_channels(posteriors: Tensor, channels: Sequence[int]) -> Tensor:
    """Add up channels of ``(n_channels, x, y, z)`` posteriors; zeros without any."""
    total = torch.zeros(posteriors.shape[1:])
    for channel in channels:
        total += posteriors[channel]
    return total
