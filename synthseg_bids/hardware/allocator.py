"""Settings that a process must have before it starts."""

from __future__ import annotations

import os
import platform
import sys

#: Large tensors come and go. By default the C library gives each back to the system, which then
#: clears every page again: a third of the time of a forward pass on CPUs. These settings let it
#: keep them, in huge pages.
TUNABLES = {
    'glibc.malloc.hugetlb': 1,
    'glibc.malloc.mmap_threshold': 2**32,
    'glibc.malloc.trim_threshold': 2**33,
}
#: First version of the C library that knows all of them.
GLIBC = (2, 35)
VARIABLE = 'GLIBC_TUNABLES'


def keep_memory() -> None:
    """Let processes started from now on keep their memory in huge pages.

    Nothing happens where another memory allocator is preloaded, where the user has chosen
    settings, or where the C library does not know them.
    """
    library, version = platform.libc_ver()
    known = library == 'glibc' and tuple(map(int, version.split('.')[:2])) >= GLIBC
    if known and VARIABLE not in os.environ and 'LD_PRELOAD' not in os.environ:
        os.environ[VARIABLE] = ':'.join(f'{name}={value}' for name, value in TUNABLES.items())


def restart_with_settings() -> None:
    """Start this program again with the settings of :func:`keep_memory`, if they are missing.

    It keeps its process number; nothing that was imported before is lost but time.
    """
    before = os.environ.get(VARIABLE)
    keep_memory()
    if os.environ.get(VARIABLE) != before:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
