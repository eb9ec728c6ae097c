"""Share GPUs between worker processes with one lock file per (device, slot).

Nipype counts GPU slots but does not assign devices to nodes. The kernel frees the lock of a worker
that dies.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# The device last used by this process comes first: its network is already loaded there.
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
        Number of processes that may share a device.
    lock_dir : str or Path
        Folder of the lock files, common to all workers.
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
    """Return the device of a node: a GPU if and only if the node takes a GPU slot.

    Parameters
    ----------
    use_gpu : bool
        The trait by which Nipype counts GPU slots.
    device : str or torch.device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    str
        ``cpu`` without `use_gpu`; with it `device`, or ``cuda`` if that is no GPU.

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
    """Return the name of a device in CUDA_VISIBLE_DEVICES; PyTorch counts visible ones from 0."""
    kind, _, number = device.partition(':')
    visible = [name.strip() for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')]
    if number and int(number) < len(visible) and visible[int(number)]:
        number = visible[int(number)]
    # UUIDs of parts of GPUs (MIG) may hold slashes.
    return re.sub(r'[^\w-]', '-', f'{kind}-{number}' if number else kind)
