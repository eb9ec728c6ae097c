"""Run on a GPU; in parts if its memory runs out, and on the CPU if that fails too."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from ..models.unet import NetworkConfig
from .engine import Engine
from .memory_plan import MAX_TILES, Plan, works_by_rows

logger = logging.getLogger(__name__)

CPU = torch.device('cpu')
_BY_ROWS, _IN_TILES = 'by slabs', 'in tiles, less accurate at their borders'
_ON_CPU = 'on the CPU'
#: Messages of GPU errors, which have no type of their own before PyTorch 2.8.
_GPU_ERROR = re.compile('cuda|cudnn|cublas|unable to find an engine', re.IGNORECASE)
#: Messages of errors of memory that are not of type OutOfMemoryError.
_SHORT_OF_MEMORY = re.compile('STATUS_ALLOC_FAILED|CUDA error: out of memory')

Result = TypeVar('Result')


class DeviceWithFallback:
    """A network on a device, or on the CPU once that has failed or while it is full.

    Parameters
    ----------
    device : torch.device
    make : callable
        Makes the network's engine on the device.
    spare : callable, optional
        Makes one on the CPU. Without it there is no fallback: errors are raised.
    """

    def __init__(
        self,
        device: torch.device,
        make: Callable[[], Engine],
        spare: Callable[[], Engine] | None = None,
    ) -> None:
        self._wanted = device
        self._make = make
        self._spare = cache(spare) if spare else None
        self._load()

    def _load(self) -> None:
        """Load the network on the device, or on the CPU for now if the device's memory is full."""
        self.device, self._lost, self._full = self._wanted, '', False
        try:
            self.engine = self._make()
        except RuntimeError as error:
            self._full = _is_out_of_memory(error)
            self._leave(error)

    def run(
        self, infer: Callable[[Engine, Plan | None], Result], shape: tuple[int, ...]
    ) -> tuple[Result, torch.device, str]:
        """Segment an image, with fallbacks.

        Parameters
        ----------
        infer : callable
            Segments it with an engine and a plan (None: the best one for the free memory).
        shape : tuple of int
            Size of the image.

        Returns
        -------
        result : what `infer` returns
        device : torch.device
            The device used.
        note : str
            Reason for a fallback; empty if there was none.
        """
        if self._full:
            self._load()
        note = self._lost
        for plan, instead in _plans(self.engine.config):
            try:
                return infer(self.engine, plan), self.device, note
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    self._leave(error)
                    return infer(self.engine, None), self.device, self._lost
                if instead is _ON_CPU and self._spare is None:
                    raise
                size = ' x '.join(map(str, shape))
                note = self._warn(f'out of memory for an image of {size} voxels', instead)
            # Outside of the except clause, since the error holds the failed pass's tensors.
            torch.cuda.empty_cache()
        assert self._spare is not None
        return infer(self._spare(), None), CPU, note

    def _leave(self, error: RuntimeError) -> None:
        """Continue on the CPU: a process whose GPU has failed cannot use it any more."""
        if self._spare is None or not _GPU_ERROR.search(str(error)):
            raise error
        self._lost = self._warn(str(error).partition('\n')[0], _ON_CPU)
        self.engine, self.device = self._spare(), CPU

    def _warn(self, what: str, instead: str) -> str:
        note = f'{self.device}: {what}; continuing {instead}'
        logger.warning('%s', note)
        return note


def _is_out_of_memory(error: RuntimeError) -> bool:
    short = _SHORT_OF_MEMORY.search(str(error))
    return isinstance(error, torch.cuda.OutOfMemoryError) or short is not None


def _plans(config: NetworkConfig) -> list[tuple[Plan | None, str]]:
    """List the plans to try on a device, each with the next step if its memory runs out."""
    by_rows = works_by_rows(config)
    tiles = [Plan(torch.float16, n, by_rows) for n in (MAX_TILES // 2, MAX_TILES)]
    exact = [Plan(torch.float16, by_rows=True)] if by_rows else []
    next_ones = [_BY_ROWS] * len(exact) + [_IN_TILES] * len(tiles) + [_ON_CPU]
    return list(zip([None, *exact, *tiles], next_ones, strict=True))
