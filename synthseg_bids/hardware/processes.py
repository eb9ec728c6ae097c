"""How processes start and end: memory, idle threads, imports."""

from __future__ import annotations

import gc
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

#: By default the C library returns the memory of each freed tensor to the system, which clears the
#: pages again: a third of the time of a forward pass on CPUs. These settings keep the memory, in
#: huge pages, and let threads share it.
TUNABLES = {
    'glibc.malloc.hugetlb': 1,
    'glibc.malloc.arena_max': 1,
    'glibc.malloc.mmap_threshold': 2**32,
    'glibc.malloc.trim_threshold': 2**33,
}
#: First version of the C library with all of them.
GLIBC = (2, 35)
VARIABLE = 'GLIBC_TUNABLES'
#: OpenMP's idle threads look this often for work before they sleep: as often as they do where they
#: are known to be more than the processors. By default it is for milliseconds, and a scan takes
#: two to three times as long beside other programs.
SPIN_VARIABLE, SPINS = 'GOMP_SPINCOUNT', '1000'
#: Another variable by which users may choose that.
WAIT_VARIABLE = 'OMP_WAIT_POLICY'
#: What the process imports that workers are forked from.
PRELOADED = ['synthseg_bids.workflows.preload']


def prepare_processes() -> None:
    """Let processes started from now on keep their memory in huge pages, and idle threads sleep.

    What the user has chosen stays. Memory is also left alone if another allocator is preloaded, or
    the C library does not have the settings.
    """
    library, version = platform.libc_ver()
    known = library == 'glibc' and tuple(map(int, version.split('.')[:2])) >= GLIBC
    if known and VARIABLE not in os.environ and 'LD_PRELOAD' not in os.environ:
        os.environ[VARIABLE] = ':'.join(f'{name}={value}' for name, value in TUNABLES.items())
    if WAIT_VARIABLE not in os.environ:
        os.environ.setdefault(SPIN_VARIABLE, SPINS)


def restart_with_settings() -> None:
    """Restart this program if it started without the memory settings of :func:`prepare_processes`.

    OpenMP reads its own setting later, with PyTorch. The process number stays the same.
    """
    before = os.environ.get(VARIABLE)
    prepare_processes()
    if os.environ.get(VARIABLE) != before:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def importing() -> Iterator[None]:
    """Do not look for garbage while a program imports; later on, not among what it has imported.

    PyTorch's import makes a million objects that stay: looking through them again and again is a
    tenth of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def start_fork_server() -> None:
    """Start the process that workers are forked from; it imports while this one goes on.

    Nothing happens where it cannot be started, which those who need it will find out.
    """
    with suppress(OSError, ImportError):
        import multiprocessing.forkserver

        multiprocessing.get_context('forkserver').set_forkserver_preload(PRELOADED)
        multiprocessing.forkserver.ensure_running()


def leave(code: int) -> NoReturn:
    """End this process without Python's clean-up, of which PyTorch's objects make a second.

    During the clean-up of training processes that have joined others, remaining threads of PyTorch
    abort about one process in twenty, after all files are written (seen with PyTorch 2.13 and
    Gloo).

    Parameters
    ----------
    code : int
        Exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
