"""Sharing GPUs between worker processes with one lock file per (device, slot).

Nipype counts GPU slots but does not say which device a node may use. The kernel frees the lock
of a worker that dies.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# The device this process used last comes first: its network is already there.
_last_device = ''


@contextmanager
def claim_device(
    devices: Sequence[str], slots_per_device: int, lock_dir: str | Path, poll_s: float = 0.1
) -> Iterator[str]:
    """Hold one slot of one device for as long as the context lasts.

    Parameters
    ----------
    devices : sequence of str
        ``cuda:0``, ``cuda:1``, ...
    slots_per_device : int
        How many processes may share a device.
    lock_dir : str or Path
        Folder of the lock files, the same for all workers.
    poll_s : float
        Seconds between two rounds over all slots when none is free.

    Yields
    ------
    str
        The device.
    """
    global _last_device
    Path(lock_dir).mkdir(parents=True, exist_ok=True)
    order = sorted(devices, key=lambda device: device != _last_device)
    slots = [(device, slot) for slot in range(slots_per_device) for device in order]
    while True:
        for device, slot in slots:
            lock = FileLock(Path(lock_dir) / f'{_lock_name(device)}_{slot}.lock')
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                _last_device = device
                yield device
                return
            finally:
                lock.release()
        time.sleep(poll_s)


def device_for(use_gpu: bool, device: object = 'auto') -> str:
    """Return where a node computes: on a GPU if it takes a GPU's slot, and only then.

    Parameters
    ----------
    use_gpu : bool
        The trait by which Nipype counts slots of GPUs.
    device : str or torch.device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    str
        ``cpu`` without `use_gpu`; with it `device`, or ``cuda`` where that names no GPU.

    Examples
    --------
    >>> device_for(False, 'cuda:1'), device_for(True), device_for(True, 'cuda:1')
    ('cpu', 'cuda', 'cuda:1')
    """
    if not use_gpu:
        return 'cpu'
    name = str(device)
    return name if name.startswith('cuda') else 'cuda'


def _lock_name(device: str) -> str:
    """Name a device as the user or Slurm does, since to PyTorch the first visible one is 0."""
    kind, _, number = device.partition(':')
    visible = [name.strip() for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')]
    if number and int(number) < len(visible) and visible[int(number)]:
        number = visible[int(number)]
    # UUIDs of parts of GPUs (MIG) may hold slashes.
    return re.sub(r'[^\w-]', '-', f'{kind}-{number}' if number else kind)
