"""Estimate the memory of a process that segments scans, to run as many at once as fit."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from ..hardware.device import fast_dtype
from ..hardware.memory import GAPS, LOW_MEMORY_BYTES
from ..models.card import ModelCard, read_card
from ..models.registry import model_path
from ..models.unet import NetworkConfig
from .localise import POOLING, crop_box
from .memory_plan import MAX_TILES, Plan, predicted_bytes, works_by_rows

#: Sides in voxels and their spacing in mm.
Grid = tuple[tuple[int, ...], tuple[float, ...]]

#: Grid of a usual scan of a head, for scans that are not known yet.
HEAD: Grid = (256, 256, 256), (1.0, 1.0, 1.0)
#: Resident memory of a worker before its first scan: Python, PyTorch, Nipype.
PROCESS_BYTES = 280 * 2**20
#: Size of the crop around a large brain, relative to the smallest crop.
CROPS = 1.3
#: Bytes per voxel of a scan (float32, as read and in RAS), of posteriors (float32, cleaned and
#: refined in place, and the lists of voxels of the refinement), and of posteriors as written.
SCAN_BYTES, CLEANED_BYTES, WRITTEN_BYTES = 8, 6, 1
#: Bytes per voxel of masks and tissue maps, and of what they are computed from.
TISSUE_BYTES = {'masks': 2, 'tissue_maps': 13, 'five_tissue': 35}
#: Memory of the network that names the parcels of the cortex, which works in boxes of one size.
PARCEL_BYTES = 300 * 2**20


def worker_gb(
    card: ModelCard,
    grids: Iterable[Grid] = (HEAD,),
    *,
    flip: bool = True,
    autocrop: bool = True,
    low_memory: bool = False,
    posteriors: str = 'none',
    tissues: Collection[str] = (),
    parcels: bool = False,
    memory_limit: int | None = None,
) -> float:
    """Predict the memory of a process that segments scans on the CPU, one after the other.

    Parameters
    ----------
    card : ModelCard
    grids : iterable of Grid
        Grids of the scans.
    flip, autocrop, low_memory : bool
        See :class:`synthseg_bids.inference.segmenter.Segmenter`.
    posteriors : str
        Grid of the posterior maps that are written: ``none``, ``native`` or ``1mm``.
    tissues : collection of str
        Masks and tissue maps that are written; keys of
        :data:`synthseg_bids.bids.names.TISSUE_KINDS`.
    parcels : bool
        Whether label maps with parcels of the cortex are written.
    memory_limit : int, optional
        Bytes that a forward pass may use (default: as many as it needs).

    Returns
    -------
    float
        In GB of 2**30 bytes; an upper bound if that much memory is free.
    """
    limit = memory_limit or (LOW_MEMORY_BYTES if low_memory else None)
    maps = sum(TISSUE_BYTES[which] for which in tissues)
    largest = max(
        (_scan_bytes(card, grid, flip, autocrop, limit, posteriors, maps) for grid in {*grids}),
        default=0,
    )
    return (PROCESS_BYTES + GAPS * largest + parcels * PARCEL_BYTES) / 2**30


def _scan_bytes(
    card: ModelCard,
    grid: Grid,
    flip: bool,
    autocrop: bool,
    limit: int | None,
    posteriors: str,
    map_bytes: int,
) -> int:
    """Return the peak memory of one scan, without that of the process itself."""
    shape, spacing = grid
    extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
    whole, seen = _network_shapes(card, grid, autocrop)
    # Localisation keeps two channels: background, and the CSF around the brain.
    locating = (
        _forward_bytes(card.network, _pooled(whole), False, limit, 2) if seen != whole else 0
    )
    forward = max(locating, _forward_bytes(card.network, seen, flip, limit))
    written = {'none': 0.0, 'native': math.prod(shape), '1mm': math.prod(extent)}[posteriors]
    per_channel = CLEANED_BYTES * math.prod(seen) + WRITTEN_BYTES * written
    finish = int(card.network.out_channels * per_channel) + map_bytes * math.prod(shape)
    return SCAN_BYTES * math.prod(shape) + max(forward, finish)


def _network_shapes(
    card: ModelCard, grid: Grid, autocrop: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the size of a scan on the network grid, and that of the crop to segment."""
    extent = [n * mm for n, mm in zip(*grid, strict=True)]
    whole = tuple(max(1, math.ceil(mm / card.spacing_mm)) for mm in extent)
    if not (autocrop and card.crop_mm):
        return whole, whole
    nothing = tuple(slice(n // 2, n // 2) for n in whole)
    multiple = card.network.size_multiple
    box = crop_box(nothing, whole, card.crop_mm, card.spacing_mm, multiple)
    return whole, tuple(part.stop - part.start for part in box)


def _pooled(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a scan in which the brain is located."""
    return tuple(-(-n // POOLING[0]) for n in shape)


def least_pass_bytes(
    card: ModelCard, grids: Iterable[Grid] = (HEAD,), *, flip: bool = True, autocrop: bool = True
) -> int:
    """Return the least memory in which forward passes can segment every scan in one piece.

    Parameters
    ----------
    card : ModelCard
    grids : iterable of Grid
        Grids of the scans.
    flip, autocrop : bool
        See :func:`worker_gb`.
    """
    itemsize = fast_dtype(torch.device('cpu')).itemsize
    plans = [Plan(), Plan(torch.float16)]
    plans += [Plan(torch.float16, by_rows=True)] if works_by_rows(card.network) else []
    most = 0
    for grid in {*grids}:
        whole, seen = _network_shapes(card, grid, autocrop)
        passes = [(seen, flip, None)] + ([(_pooled(whole), False, 2)] if seen != whole else [])
        for shape, twice, channels in passes:
            needed = [
                predicted_bytes(card.network, shape, itemsize, twice, plan, channels)
                for plan in plans
            ]
            most = max(most, int(min(needed) * (CROPS if seen != whole else 1)))
    return most


def _forward_bytes(
    network: NetworkConfig,
    shape: tuple[int, ...],
    flip: bool,
    limit: int | None,
    n_channels: int | None = None,
) -> int:
    itemsize = fast_dtype(torch.device('cpu')).itemsize
    exact, smallest = (
        predicted_bytes(network, shape, itemsize, flip, plan, n_channels)
        for plan in (Plan(), Plan(torch.float16, MAX_TILES))
    )
    return min(exact, max(smallest, limit)) if limit else exact


def describe_model(name_or_path: str | Path) -> ModelCard:
    """Return the card of a model without loading its weights.

    Parameters
    ----------
    name_or_path : str or Path
        See :func:`synthseg_bids.models.registry.model_path`.

    Returns
    -------
    ModelCard
        For published weights, which have none, one with the paper's network and 1 mm.
    """
    path = model_path(name_or_path)
    if path.suffix == '.safetensors':
        return read_card(path)
    return ModelCard(path.stem, NetworkConfig(), spacing_mm=1.0)
