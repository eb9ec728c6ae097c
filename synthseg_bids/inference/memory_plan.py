"""Predict the memory of a forward pass, and plan how it fits into the available memory.

If memory is short, posteriors are kept in half precision, then the finest level of the network is
computed by slabs, and as a last resort the image is cut into tiles.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass

import torch

from ..models.unet import NetworkConfig

logger = logging.getLogger(__name__)

#: Overlap of neighbouring tiles, in voxels, on either side of their border.
TILE_OVERLAP = 32
#: Rows of features in a slab when the finest level is computed by slabs.
ROWS = 32
#: Largest number of tiles.
MAX_TILES = 8


@dataclass(frozen=True)
class Plan:
    """How to fit a forward pass into memory.

    Attributes
    ----------
    storage : torch.dtype
        Number format of the posteriors.
    tiles : int
        Number of overlapping tiles along the image's longest axis. With more than one the result
        is not exact: no tile sees the whole image.
    by_rows : bool
        Compute the finest level by slabs, a third slower; see :func:`works_by_rows`.
    """

    storage: torch.dtype = torch.float32
    tiles: int = 1
    by_rows: bool = False


def tile_slices(length: int, tiles: int, step: int) -> list[tuple[slice, slice]]:
    """Cut an axis into overlapping tiles.

    Parameters
    ----------
    length : int
    tiles : int
    step : int
        Tiles start at multiples of it, as the network's ``size_multiple``, so that voxels of
        coarse levels are aligned with those of the whole image. `length` is a multiple too.

    Returns
    -------
    list of (slice, slice)
        Extent of each tile, and the part of it that is kept; the parts cover the axis once. A
        short axis has fewer tiles than asked for.

    Examples
    --------
    >>> tile_slices(96, 2, 16)
    [(slice(0, 80, None), slice(0, 48, None)), (slice(16, 96, None), slice(48, 96, None))]
    """
    overlap = max(TILE_OVERLAP, step)
    inner = {round(i * length / tiles / step) * step for i in range(1, tiles)}
    borders = sorted({0, length} | {border for border in inner if border < length})
    return [
        (slice(max(first - overlap, 0), min(last + overlap, length)), slice(first, last))
        for first, last in itertools.pairwise(borders)
    ]


def predicted_bytes(
    config: NetworkConfig,
    shape: tuple[int, ...],
    itemsize: int,
    flip: bool,
    plan: Plan,
    n_channels: int | None = None,
) -> int:
    """Predict the peak memory of a forward pass, input and output included.

    Parameters
    ----------
    config : NetworkConfig
    shape : tuple of int
        Shape of the image.
    itemsize : int
        Bytes of a weight or activation.
    flip : bool
    plan : Plan
    n_channels : int, optional
        Number of channels whose posteriors are kept in that memory (default: all); 0 on a GPU.

    Returns
    -------
    int
    """
    n_channels = config.out_channels if n_channels is None else n_channels
    kept = math.prod(shape) * n_channels * plan.storage.itemsize
    multiple = config.size_multiple
    padded = [-(-n // multiple) * multiple for n in shape]
    longest = max(padded)
    tiles = tile_slices(longest, plan.tiles, multiple)
    seen = max(tile.stop - tile.start for tile, _ in tiles)
    voxels = math.prod(padded) // longest * seen
    feature = voxels // config.positions * max(config.features, config.output_features) * itemsize
    passes = 2 if flip else 1
    posteriors = voxels * n_channels * plan.storage.itemsize
    if plan.by_rows:
        # Tensors of the second level, of an eighth of the voxels: three of them, and that of the
        # straight pass. Then slabs, as below, with their halos; each is freed once the next is
        # there.
        second = voxels // config.positions // 8 * config.level_features[1] * itemsize
        halo = 2 * (config.encoder_convs + config.decoder_convs)
        part = min((ROWS + halo) / padded[0], 1.0)
        decoder = (passes + 2) * second
        output = passes * second + int((2 * passes + 2) * feature * part) + posteriors
    else:
        # In the last decoder level: skip connection, its convolution, that of the coarser level,
        # and the straight pass's features. Then the features of both passes, and the posteriors.
        decoder = (passes + 2) * feature
        output = passes * feature + posteriors
    return max(decoder, output) + 3 * 4 * voxels + (kept if plan.tiles > 1 else 0)


def works_by_rows(config: NetworkConfig) -> bool:
    """Return whether the finest level can be computed by slabs, without global statistics."""
    return config.norm != 'instance' and config.sub_voxels == 1


def choose_plan(
    config: NetworkConfig,
    shape: tuple[int, ...],
    itemsize: int,
    flip: bool,
    available: int,
    n_channels: int | None = None,
) -> Plan:
    """Choose the first plan that fits the memory; exact ones come first.

    Parameters
    ----------
    config, shape, itemsize, flip, n_channels
        See :func:`predicted_bytes`.
    available : int
        Bytes; see :func:`~synthseg_bids.hardware.device.available_bytes`.

    Returns
    -------
    Plan
        The smallest one, if none fits.
    """
    by_rows = works_by_rows(config)
    plans = [Plan(), Plan(torch.float16)]
    plans += [Plan(torch.float16, n, by_rows) for n in range(1 if by_rows else 2, MAX_TILES + 1)]
    for plan in plans:
        needed = predicted_bytes(config, shape, itemsize, flip, plan, n_channels)
        if needed <= available:
            break
    if plan.tiles > 1:
        logger.warning(
            '%.1f GB of memory at hand: segmenting %s voxels in %d tiles, less accurate at their '
            'borders',
            available / 2**30,
            ' x '.join(map(str, shape)),
            plan.tiles,
        )
    elif plan != Plan():
        logger.info(
            '%.1f GB of memory at hand: posteriors in half precision%s',
            available / 2**30,
            ', finest level by slabs' if plan.by_rows else '',
        )
    return plan
