"""Where to compute: device names, threads and number formats."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .errors import UsageError


class DeviceError(UsageError):
    """A device that was asked for does not exist."""


def resolve_device(name: str = 'auto') -> torch.device:
    """Return the device for a name.

    Parameters
    ----------
    name : str
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError
        If it does not exist here; the message says what does.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if name == 'cpu':
        return torch.device('cpu')
    kind, _, number = name.partition(':')
    if kind != 'cuda' or (number and not number.isdigit()):
        raise DeviceError(f'device {name!r}: use auto, cpu, cuda or cuda:N')
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise DeviceError(f'device {name!r}: {count} CUDA devices found; use --device cpu or auto')
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Limit the CPU threads of tensor operations (None: leave as it is)."""
    if threads:
        torch.set_num_threads(threads)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes faster with it, else float32.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.dtype
    """
    if device.type == 'cuda':
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Without AVX512-bf16 or AMX, oneDNN emulates bfloat16 and is slower than float32. Older
    # versions of PyTorch cannot tell, and then compute in float32.
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
        On a GPU, what is free on it. Otherwise what the system could give, or, where that is
        less, what the control group we live in (a container, a batch job) may still take.
    """
    if device.type == 'cuda':
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if 'MemAvailable' in line)
    except (OSError, ValueError, StopIteration):
        pass
    for limit, usage, cache in (
        ('memory.max', 'memory.current', 'memory.stat'),
        ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'memory/memory.stat'),
    ):
        left = group_bytes(Path('/sys/fs/cgroup'), limit, usage, cache)
        free = free if left is None else min(free, left)
    return free


def group_bytes(root: Path, limit: str, usage: str, statistics: str) -> int | None:
    """Return the memory that a control group may still take.

    Parameters
    ----------
    root : Path
        Of the control group's files.
    limit, usage, statistics : str
        Names of the files with its limit, what it uses, and what of that is file cache, which
        the system takes back.

    Returns
    -------
    int or None
        None if there is no such group, or no limit.
    """
    try:
        left = int((root / limit).read_text()) - int((root / usage).read_text())
        for line in (root / statistics).read_text().splitlines():
            name, _, value = line.partition(' ')
            if name in ('inactive_file', 'active_file'):
                left += int(value)
    except (OSError, ValueError):
        return None
    return max(left, 0)
