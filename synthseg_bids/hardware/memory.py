"""Memory of the machine, or of the container or batch job of this process."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

#: Memory of a forward pass in low-memory mode: the paper's network then needs tiles, one on a 2 mm
#: grid hardly ever.
LOW_MEMORY_BYTES = 2**30
#: Factor for fragmentation. A process keeps freed memory (see :mod:`.processes`), which
#: tensors of other sizes do not fill without gaps: on a data set of mixed scans it grew to twice
#: the memory that the largest of them takes in a new process.
GAPS = 2.0
#: Parameter of the C library's ``mallopt``, and the block size from which on memory is returned to
#: the system when freed after :func:`release` (the largest that the library accepts).
M_MMAP_THRESHOLD, RETURN_BYTES = -3, 2**25

CONTROL_GROUPS = Path('/sys/fs/cgroup')
OWN_GROUPS = Path('/proc/self/cgroup')


class GroupFiles(NamedTuple):
    """Files of a control group: its limit, its usage, and statistics of the usage.

    The lines `cached` of the statistics are file cache, which the system can take back.
    """

    limit: str
    usage: str
    statistics: str
    cached: tuple[str, str]


VERSION_2 = GroupFiles(
    'memory.max', 'memory.current', 'memory.stat', ('inactive_file', 'active_file')
)
VERSION_1 = GroupFiles(
    'memory.limit_in_bytes',
    'memory.usage_in_bytes',
    'memory.stat',
    ('total_inactive_file', 'total_active_file'),
)


def control_groups(
    root: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS
) -> Iterator[tuple[Path, GroupFiles]]:
    """List the folders of this process's control group and of its parents.

    The limit of a batch job may be set on a parent of its group. In a container only the root
    folder exists, although the name is that outside of the container.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(':', 2)
        path = PurePosixPath(name.lstrip('/'))
        if not controllers:
            yield from ((root / part, VERSION_2) for part in (path, *path.parents))
        elif 'memory' in controllers.split(','):
            yield from ((root / 'memory' / part, VERSION_1) for part in (path, *path.parents))


def machine_bytes() -> int:
    """Return the memory of the machine."""
    return psutil.virtual_memory().total


def total_bytes() -> int:
    """Return the memory of the machine or, if less, the limit of our control groups."""
    total = machine_bytes()
    for group, files in control_groups():
        # The group may not exist, or its limit may be "max".
        with suppress(OSError, ValueError):
            total = min(total, int((group / files.limit).read_text()))
    return total


def release() -> None:
    """Return freed memory to the system, and from now on as soon as it is freed.

    Meant for control groups with little memory, where it counts as used. Nothing happens with
    another C library than GNU's.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, 'malloc_trim'):
        library.mallopt(M_MMAP_THRESHOLD, RETURN_BYTES)
        library.malloc_trim(0)


def free_bytes() -> int:
    """Return the available memory of the system or, if less, of our control groups."""
    free = psutil.virtual_memory().available
    for group, files in control_groups():
        left = group_bytes(group, files)
        free = free if left is None else min(free, left)
    return free


def group_bytes(group: Path, files: GroupFiles) -> int | None:
    """Return the available memory of a control group; None if it does not exist or has no limit.

    Parameters
    ----------
    group : Path
        Folder of the group.
    files : GroupFiles

    Returns
    -------
    int or None
    """
    try:
        left = int((group / files.limit).read_text()) - int((group / files.usage).read_text())
        for line in (group / files.statistics).read_text().splitlines():
            name, _, value = line.partition(' ')
            if name in files.cached:
                left += int(value)
    except (OSError, ValueError):
        return None
    return max(left, 0)
