"""How much memory there is, for us: the machine's, or that of a container or batch job."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

#: What a forward pass plans with where memory is to be saved: the network of the paper then takes
#: tiles, one on a 2 mm grid hardly ever needs them.
LOW_MEMORY_BYTES = 2**30
#: A process keeps the memory that it has been given (see :mod:`.allocator`), and
#: tensors of other sizes do not fit into it without gaps: in a data set of mixed scans it grew to
#: twice what the largest of them takes in a new process.
GAPS = 2.0
#: Parameter of the C library's ``mallopt``, and the size from which on :func:`release` lets memory
#: go as soon as it is freed (the largest that the library takes).
M_MMAP_THRESHOLD, LET_GO_BYTES = -3, 2**25

CONTROL_GROUPS = Path('/sys/fs/cgroup')
OWN_GROUPS = Path('/proc/self/cgroup')


class GroupFiles(NamedTuple):
    """Files of a control group: its limit, what it uses, and what of that is file cache.

    The system takes back the cache, of which the last file has a line for each of `cached`.
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
    """List the folders of the control group we live in and of those around it.

    A batch job is in a group of its own, whose limit may be that of a group further up; in a
    container its group is the outermost that there is, whatever it is called outside.
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
    """Return the memory of the machine, or the least limit of the control groups we live in."""
    total = machine_bytes()
    for group, files in control_groups():
        # No such group, or "max".
        with suppress(OSError, ValueError):
            total = min(total, int((group / files.limit).read_text()))
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
    """Return what the system could give now, or our control groups may still take, if less."""
    free = psutil.virtual_memory().available
    for group, files in control_groups():
        left = group_bytes(group, files)
        free = free if left is None else min(free, left)
    return free


def group_bytes(group: Path, files: GroupFiles) -> int | None:
    """Return the memory that a control group may still take.

    Parameters
    ----------
    group : Path
        Its folder.
    files : GroupFiles
        Their names.

    Returns
    -------
    int or None
        None if there is no such group, or no limit.
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
