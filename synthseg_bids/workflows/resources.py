"""Divide processors, memory and GPUs between segmentations."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from synthseg_bids.hardware.memory import total_bytes

logger = logging.getLogger(__name__)

# More threads hardly accelerate one segmentation.
_MAX_THREADS = 8


@dataclass(frozen=True)
class Resources:
    """Resources for the nodes of a workflow.

    Attributes
    ----------
    devices : tuple of str
        ``('cpu',)`` or CUDA devices.
    slots_per_device : int
        Segmentations at once on each GPU.
    nprocs : int
        Total number of CPU processors.
    threads : int
        CPU threads of one segmentation.
    lock_dir : str
        Folder of the device locks (empty: no locking).
    mem_gb : float or None
        Memory of a process that segments (None: the method's usual one); see
        :func:`synthseg_bids.inference.memory_estimate.worker_gb`.
    total_mem_gb : float
        Memory for all nodes together.
    gpu_fallback : bool
        Whether scans that do not fit a GPU's memory are segmented on the CPU.
    low_memory : bool
        Whether segmentations use little memory even if more is free.
    memory_limit : int or None
        Bytes that a forward pass may use (None: all that are free).
    """

    devices: tuple[str, ...] = ('cpu',)
    slots_per_device: int = 1
    nprocs: int = 1
    threads: int = 1
    lock_dir: str = ''
    mem_gb: float | None = None
    total_mem_gb: float = float('inf')
    gpu_fallback: bool = True
    low_memory: bool = False
    memory_limit: int | None = None

    @property
    def use_gpu(self) -> bool:
        """Whether segmentations run on GPUs."""
        return self.devices[0].startswith('cuda')

    @property
    def n_gpu_procs(self) -> int:
        """Segmentations at once on all GPUs together."""
        return len(self.devices) * self.slots_per_device if self.use_gpu else 0

    @property
    def n_segmentations(self) -> int:
        """Segmentations at once."""
        at_once = self.n_gpu_procs or self.nprocs // self.threads
        fitting = self.total_mem_gb / self.mem_gb if self.mem_gb else at_once
        return max(1, int(min(at_once, fitting)))

    @property
    def scheduler_procs(self) -> int:
        """Number of processors for the scheduler.

        One more than there are, so that saving an image does not wait for the next segmentation;
        unless that would start another segmentation.
        """
        nprocs = max(self.nprocs, self.n_gpu_procs)
        spare = self.use_gpu or (nprocs + 1) // self.threads == nprocs // self.threads
        return nprocs + int(spare)


def plan_resources(
    device: object = 'auto',
    n_gpus: int | None = None,
    procs_per_gpu: int = 1,
    nprocs: int | None = None,
    omp_nthreads: int | None = None,
    total_mem_gb: float | None = None,
    lock_dir: str | Path = '',
    gpu_fallback: bool = True,
    elsewhere: bool = False,
) -> Resources:
    """Divide processors and GPUs so that nothing is oversubscribed.

    Parameters
    ----------
    device : str or torch.device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    n_gpus : int, optional
        Largest number of GPUs (default: all that are visible).
    procs_per_gpu : int
        Segmentations at once on each GPU.
    nprocs : int, optional
        CPU processors (default: those this process may run on).
    omp_nthreads : int, optional
        CPU threads of one segmentation (default: all, up to 8: on a CPU, one segmentation with
        all threads is faster than several with one each, and takes less memory).
    total_mem_gb : float, optional
        Total memory (default: 90 % of that of the machine or control group).
    lock_dir : path-like
        Folder of the device locks.
    gpu_fallback : bool
        Whether scans that do not fit a GPU's memory are segmented on the CPU.
    elsewhere : bool
        Whether the nodes run on other machines, whose devices are unknown here.

    Returns
    -------
    Resources

    Raises
    ------
    DeviceError
        If the device does not exist.
    """
    name = str(device)
    devices = (name,) if elsewhere else _choose_devices(name, n_gpus)
    nprocs = nprocs or available_processors()
    slots = len(devices) * procs_per_gpu if devices[0] != 'cpu' else 1
    threads = omp_nthreads or max(1, min(nprocs // slots, _MAX_THREADS))
    if threads > nprocs:
        logger.warning('--omp-nthreads %d is more than --nprocs; using %d', threads, nprocs)
        threads = nprocs
    return Resources(
        devices,
        procs_per_gpu,
        nprocs,
        threads,
        '' if elsewhere else str(lock_dir),
        total_mem_gb=total_mem_gb or 0.9 * total_bytes() / 2**30,
        gpu_fallback=gpu_fallback,
    )


def available_processors() -> int:
    """Count the processors that this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _choose_devices(device: str, n_gpus: int | None) -> tuple[str, ...]:
    from synthseg_bids.hardware.device import DeviceError, resolve_device

    if device == 'auto' and n_gpus is not None:
        device = 'cuda' if n_gpus else 'cpu'
    chosen = resolve_device(device)
    if chosen.type != 'cuda':
        return (chosen.type,)
    if n_gpus == 0:
        raise DeviceError(f'--device {device} with --n-gpus 0: leave one of them out')
    if chosen.index is not None:
        return (f'cuda:{chosen.index}',)
    found: list[str] = []
    while n_gpus is None or len(found) < n_gpus:
        try:
            found.append(str(resolve_device(f'cuda:{len(found)}')))
        except DeviceError:
            if n_gpus is not None or not found:
                raise
            break
    return tuple(found)
