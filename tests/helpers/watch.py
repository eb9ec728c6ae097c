"""Look at processes that are not ours, any of which may be gone a moment later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar('Found')


def wait_until(
    condition: Callable[[], Found],
    timeout_s: float = 400,
    every_s: float = 0.02,
    tell: Callable[[], object] = str,
) -> Found:
    """Wait until something is true, and return it; tell how things stand if it never is."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, tell()
        time.sleep(every_s)
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        return Path('/proc', str(pid), name).read_bytes()
    except OSError:
        return b''


def children(pid: int) -> list[int]:
    return [int(word) for word in _read(pid, f'task/{pid}/children').split()]


def environment(pid: int) -> dict[str, str]:
    pairs = (
        pair.partition('=') for pair in _read(pid, 'environ').decode(errors='replace').split('\0')
    )
    return {name: value for name, _, value in pairs if name}


def _status(pid: int) -> dict[str, str]:
    pairs = (line.partition(':') for line in _read(pid, 'status').decode().splitlines())
    return {name: value.strip() for name, _, value in pairs}


def is_stopped(pid: int) -> bool:
    return _status(pid).get('State', '').startswith('T')


def has_ended(pid: int) -> bool:
    """Tell whether nothing is left but, perhaps, what its parent may ask for."""
    return _status(pid).get('State', 'X')[0] in 'XZ'


def wait_for_end(pid: int) -> None:
    wait_until(lambda: has_ended(pid), timeout_s=120)


def wait_for_worker(pid: int) -> int:
    """Wait for a worker: a child of the fork server, which is a child of the app."""

    def worker() -> int | None:
        for server in children(pid):
            if b'forkserver' in _read(server, 'cmdline'):
                for child in children(server):
                    # Modules that the server imports run programs, too, which have no threads.
                    if int(_status(child).get('Threads', 0)) > 1:
                        return child
        return None

    return wait_until(worker, every_s=0.01)
