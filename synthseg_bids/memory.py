"""How much memory there is, for us: the machine's, or that of a container or batch job."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

#: What a forward pass plans with where memory is to be saved: the network of the paper then takes
#: tiles, one on a 2 mm grid hardly ever needs them.
LOW_MEMORY_BYTES = 2**30
#: A process keeps the memory that it has been given (see :mod:`synthseg_bids.cli.launch`), and
#: tensors of other sizes do not fit into it without gaps: in a data set of mixed scans it grew to
#: twice what the largest of them takes in a new process.
GAPS = 2.0
#: Parameter of the C library's ``mallopt``, and the size from which on :func:`release` lets memory
#: go as soon as it is freed (the largest that the library takes).
M_MMAP_THRESHOLD, LET_GO_BYTES = -3, 2**25

CONTROL_GROUPS = Path('/sys/fs/cgroup')
#: Files of a control group in the second and in the first version: its limit, what it uses, and
#: what of that is file cache, which the system takes back.
FILES = (
    ('memory.max', 'memory.current', 'memory.stat'),
    ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'memory/memory.stat'),
)


def total_bytes() -> int:
    """Return the memory of the machine, or the limit of the control group we live in."""
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for limit, _, _ in FILES:
        try:
            total = min(total, int((CONTROL_GROUPS / limit).read_text()))
        except (OSError, ValueError):
            continue
    return total


def release() -> None:
    """Give freed memory back to the system, and from now on as soon as it is freed.

    For where memory is scarce: what is kept counts as used there. With another C library than
    GNU's nothing happens.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, 'malloc_trim'):
        library.mallopt(M_MMAP_THRESHOLD, LET_GO_BYTES)
        library.malloc_trim(0)


def free_bytes() -> int:
    """Return what the system could give now, or the control group may still take, if less."""
    free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if 'MemAvailable' in line)
    except (OSError, ValueError, StopIteration):
        pass
    for names in FILES:
        left = group_bytes(CONTROL_GROUPS, *names)
        free = free if left is None else min(free, left)
    return free


def group_bytes(root: Path, limit: str, usage: str, statistics: str) -> int | None:
    """Return the memory that a control group may still take.

    Parameters
    ----------
    root : Path
        Of the control group's files.
    limit, usage, statistics : str
        Their names; see `FILES`.

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
