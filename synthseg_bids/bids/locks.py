"""Locks of participants, so that several runs can write to one output dataset."""

from __future__ import annotations

import errno
import fcntl
import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def hold_participants(out_dir: Path, participants: Iterable[str]) -> Iterator[None]:
    """Keep other processes from writing outputs of some participants.

    Every participant is a byte of one lock file. The kernel frees the locks of a process that
    dies. Bytes are locked in ascending order, so that no two processes wait for each other.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    participants : iterable of str
        Labels.

    Notes
    -----
    The locks belong to the process: it must not hold participants twice.
    """
    path = out_dir / 'logs' / '.participants.lock'
    path.parent.mkdir(parents=True, exist_ok=True)
    by_byte = {zlib.crc32(label.encode()): label for label in participants}
    with path.open('a') as file:
        for byte in sorted(by_byte):
            try:
                _lock(file.fileno(), byte, by_byte[byte])
            except OSError as error:
                # Some network file systems have no locks.
                _warn(path, error.strerror)
                break
        yield


def held_by_others(out_dir: Path, participants: Iterable[str]) -> set[str]:
    """Return the participants that other processes are at work on; see hold_participants."""
    path = out_dir / 'logs' / '.participants.lock'
    if not path.exists():
        return set()
    held = set()
    with path.open('a') as file:
        for label in participants:
            byte = zlib.crc32(label.encode())
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)
            except OSError as error:
                # Some network file systems have no locks.
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    held.add(label)
    return held


@lru_cache
def _warn(path: Path, reason: str | None) -> None:
    """Say once that a file cannot be locked, not for every participant."""
    logger.warning('%s: cannot be locked (%s); going on', path, reason)


def _lock(file: int, byte: int, participant: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        logger.info('sub-%s: another run is at work on it; waiting for its end', participant)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
