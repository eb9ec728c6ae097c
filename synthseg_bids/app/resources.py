"""What a run computes with: devices, cores, memory; settled before anything runs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthseg_bids.errors import UsageError

from .config import RunConfig
from .method import ChosenMethod

if TYPE_CHECKING:
    from synthseg_bids.bids.image_record import ImageRecord
    from synthseg_bids.workflows.resources import Resources

logger = logging.getLogger(__name__)

#: Requests above this multiple of the physical memory are taken for a mix-up of MB and GB.
MOST_MEMORY = 4


def fit_memory(
    config: RunConfig, pending: Sequence[ImageRecord], chosen: ChosenMethod
) -> tuple[float, int | None]:
    """Choose how images are segmented within ``--mem-gb``.

    Parameters
    ----------
    config : RunConfig
    pending : sequence of ImageRecord
    chosen : ChosenMethod

    Returns
    -------
    mem_gb : float
        What a process takes that segments them.
    memory_limit : int or None
        Bytes that a forward pass may plan with; none where as many as it takes are allowed.

    Raises
    ------
    UsageError
        If they do not fit; the message names the least that suffices.
    """
    usual = chosen.mem_gb(config, pending)
    allowed = config.mem_gb
    if not pending or not allowed or usual <= allowed:
        return usual, None
    limit = None if config.low_mem else chosen.least_pass_bytes(config, pending)
    exact = min(usual, chosen.mem_gb(config, pending, limit)) if limit else usual
    if exact <= allowed:
        logger.info('--mem-gb %g: images are kept small, as exact and slower', allowed)
        return exact, limit
    small = chosen.mem_gb(replace(config, low_mem=True), pending)
    how = f' (or {_up(small)} with --low-mem)' if small < exact else ''
    raise UsageError(
        f'--mem-gb {allowed:g}: an image takes {usual:.1f} GB here; give at least '
        f'{_up(exact)}{how}, and ask the batch system for as much'
    )


def _up(gigabytes: float) -> str:
    return f'{math.ceil(10 * gigabytes) / 10:.1f}'


def check_resources(config: RunConfig) -> None:
    """Refuse impossible devices and amounts of memory, in a dry run, too."""
    from synthseg_bids.hardware.device import check_device_name
    from synthseg_bids.hardware.memory import machine_bytes

    check_device_name(config.device)
    machine_gb = machine_bytes() / 2**30
    # With a plugin, jobs may run on other machines, which may have more memory.
    if not config.use_plugin and (config.mem_gb or 0) > MOST_MEMORY * machine_gb:
        raise UsageError(
            f'--mem-gb {config.mem_gb:g}: this machine has {machine_gb:.0f} GB; '
            'give it in GB, or megabytes with an M'
        )


def divide_resources(
    config: RunConfig,
    pending: Sequence[ImageRecord],
    chosen: ChosenMethod,
    plugin: str,
    work_dir: Path,
) -> Resources:
    """Divide devices, cores and memory among the images that are segmented at once.

    Parameters
    ----------
    config : RunConfig
    pending : sequence of ImageRecord
        The images to segment.
    chosen : ChosenMethod
    plugin : str
        Nipype plugin: those of batch systems run on other machines.
    work_dir : Path
        Its folder ``locks`` has what keeps processes of a GPU apart.

    Raises
    ------
    UsageError
        If the memory does not suffice; see :func:`fit_memory`.
    """
    from synthseg_bids.workflows.multiproc import LOCAL_PLUGINS, check_plugin
    from synthseg_bids.workflows.resources import plan_resources

    check_plugin(plugin)
    resources = plan_resources(
        'cpu' if chosen.program else config.device,
        config.n_gpus,
        config.procs_per_gpu,
        config.nprocs,
        config.omp_nthreads,
        config.mem_gb,
        lock_dir=work_dir / 'locks',
        gpu_fallback=config.gpu_fallback,
        elsewhere=plugin not in LOCAL_PLUGINS,
    )
    mem_gb, limit = fit_memory(config, pending, chosen)
    return replace(resources, mem_gb=mem_gb, low_memory=config.low_mem, memory_limit=limit)


def choose_plugin(
    plugin: tuple[str, dict[str, Any]], resources: Resources
) -> tuple[str, dict[str, Any]]:
    """Use one process if several cannot communicate; UsageError if several were asked for."""
    problem = _why_not_several() if plugin[0] == 'MultiProc' else ''
    if not problem:
        return plugin
    if resources.n_segmentations > 1:
        raise UsageError(f'{problem}, or give --nprocs 1')
    logger.warning('%s; everything runs in one process', problem)
    return 'Linear', plugin[1]


def _why_not_several() -> str:
    """Say why several processes cannot communicate, and what to do; empty if they can."""
    import multiprocessing
    from multiprocessing.connection import Listener
    from tempfile import gettempdir

    try:
        multiprocessing.get_context('forkserver').Lock()
    # ImportError if Python was built without semaphores.
    except (OSError, ImportError) as error:
        what = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        return (
            f'/dev/shm: {what}: several processes need shared memory; make /dev/shm writable '
            '(Apptainer: --bind /dev/shm)'
        )
    try:
        Listener(family='AF_UNIX').close()
    except OSError as error:
        return (
            f'{gettempdir()}: {error.strerror or error}: several processes need sockets in the '
            'folder for temporary files; set TMPDIR to one that is writable and has a short path'
        )
    return ''
