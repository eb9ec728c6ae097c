"""Set the C library's memory allocator, which must be done before a process starts."""

from __future__ import annotations

import os
import platform
import sys

#: By default the C library returns the memory of each freed tensor to the system, which clears the
#: pages again: a third of the time of a forward pass on CPUs. These settings keep the memory, in
#: huge pages.
TUNABLES = {
    'glibc.malloc.hugetlb': 1,
    'glibc.malloc.arena_max': 1,
    'glibc.malloc.mmap_threshold': 2**32,
    'glibc.malloc.trim_threshold': 2**33,
}
#: First version of the C library with all of them.
GLIBC = (2, 35)
VARIABLE = 'GLIBC_TUNABLES'


def keep_memory() -> None:
    """Let processes started from now on keep their memory in huge pages.

    Nothing happens if another memory allocator is preloaded, the user has chosen settings, or the
    C library does not have them.
    """
    library, version = platform.libc_ver()
    known = library == 'glibc' and tuple(map(int, version.split('.')[:2])) >= GLIBC
    if known and VARIABLE not in os.environ and 'LD_PRELOAD' not in os.environ:
        os.environ[VARIABLE] = ':'.join(f'{name}={value}' for name, value in TUNABLES.items())


def restart_with_settings() -> None:
    """Restart this program with the settings of :func:`keep_memory`, if they are missing.

    The process number stays the same.
    """
    before = os.environ.get(VARIABLE)
    keep_memory()
    if os.environ.get(VARIABLE) != before:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
