"""Device names, threads and number formats."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from ..errors import UsageError
from .idle_gpu import idle_gpu, warn_of_idle_gpu
from .memory import free_bytes

#: Environment variable that overrides the number format.
DTYPE_VARIABLE = 'SYNTHSEG_BIDS_DTYPE'
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


class DeviceError(UsageError):
    """A device that was asked for does not exist."""


def check_device_name(name: str) -> None:
    """Raise DeviceError for a name that is not valid on any machine; see resolve_device."""
    if not re.fullmatch(r'auto|cpu|cuda(:[0-9]+)?', name):
        raise DeviceError(f'device {name!r}: use auto, cpu, cuda or cuda:N')


def resolve_device(name: str | torch.device = 'auto') -> torch.device:
    """Return the device for a name.

    Parameters
    ----------
    name : str or torch.device
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    torch.device
        With ``auto``, a GPU that this build of PyTorch cannot use is warned of.

    Raises
    ------
    DeviceError
        If it does not exist here.
    """
    name = str(name)
    check_device_name(name)
    if name == 'auto':
        if torch.cuda.is_available():
            return torch.device('cuda')
        warn_of_idle_gpu()
        return torch.device('cpu')
    if name == 'cpu':
        return torch.device('cpu')
    count = torch.cuda.device_count()
    if int(name.partition(':')[2] or 0) >= count:
        why = idle_gpu() or f'{count} CUDA devices found; use --device cpu or auto'
        raise DeviceError(f'device {name!r}: {why}')
    return torch.device(name)


@dataclass
class _Threads:
    """Whether this process has computed with several threads, or was forked from one that had."""

    used: bool = False
    lost: bool = False

    def forked(self) -> None:
        self.lost = self.lost or self.used


_threads = _Threads()
os.register_at_fork(after_in_child=_threads.forked)


def check_threads() -> None:
    """Refuse to compute with threads that were lost in a fork: PyTorch would wait for ever.

    Raises
    ------
    DeviceError
        If the process was forked from one that had computed with several threads.
    """
    if torch.get_num_threads() == 1:
        return
    if _threads.lost:
        raise DeviceError(
            'this process was forked off one that had segmented with several threads, which '
            "PyTorch does not survive: start processes with 'spawn', or use threads=1 here"
        )
    _threads.used = True


def set_threads(threads: int | None) -> None:
    """Limit the CPU threads of tensor operations (None: do not change)."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f'{threads} threads: give at least 1')
        torch.set_num_threads(threads)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if it is faster on the device, else float32.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.dtype
        ``$SYNTHSEG_BIDS_DTYPE`` takes precedence.

    Raises
    ------
    UsageError
        If it names neither ``float32`` nor ``bfloat16``.
    """
    if name := os.environ.get(DTYPE_VARIABLE):
        if name not in DTYPES:
            raise UsageError(f'{DTYPE_VARIABLE}={name}: use {" or ".join(DTYPES)}')
        return DTYPES[name]
    if device.type == 'cuda':
        # Older NVIDIA GPUs only emulate it, and have no convolutions in it.
        old = torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0)
        return torch.float32 if old else torch.bfloat16
    # Without AVX512-bf16 or AMX, oneDNN emulates bfloat16 and is slower than float32. Older
    # versions of PyTorch lack these checks, and float32 is used.
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    native = any(getattr(torch.cpu, check, bool)() for check in checks)
    return torch.bfloat16 if native else torch.float32


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free now.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int
        On a GPU, its free memory. Otherwise what is available in the system or, if less, in the
        control group of this process (a container, a batch job).
    """
    if device.type == 'cuda':
        # PyTorch caches memory that earlier scans have freed.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return free_bytes()
