"""What all errors have in common that the user, not the program, can do something about."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FREE = 'free some space, then run the same command again'
_ELSEWHERE = 'change its permissions or choose another folder'
_PROCESSES = 'give a smaller --nprocs or --threads, or raise the limits (ulimit)'
_DISK = 'see to the disk or network file system, then run the same command again'
_MEMORY_FOLDER = '/dev/shm'
#: What to do about errors of the operating system.
_ADVICE = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: _FREE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: 'mount it writable or choose another folder',
    errno.ENOENT: 'make it, or give another path',
    errno.EISDIR: 'give the name of a file',
    errno.ELOOP: 'mend the links in it',
    errno.ENAMETOOLONG: 'choose a shorter name',
    errno.EMFILE: _PROCESSES,
    errno.ENFILE: _PROCESSES,
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: 'use a machine with more memory, or give a smaller --nprocs',
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
    errno.ETIMEDOUT: _DISK,
    errno.ENOTDIR: 'choose another folder',
    errno.EEXIST: 'choose another folder',
}


class UsageError(ValueError):
    """What was asked for cannot be had; the message is one line that says why."""


class InputImageError(ValueError):
    """An image file cannot be used; the message is one line."""


@contextmanager
def about(image: object) -> Iterator[None]:
    """Put the name of an image before what is found to be wrong with it inside."""
    try:
        yield
    except InputImageError as error:
        raise InputImageError(f'{image}: {error}') from error


def explain(number: int, path: str | None = None) -> str:
    """Say in one line what the operating system refused, and what to do.

    Parameters
    ----------
    number : int
        ``errno``.
    path : str, optional
        What it was about.

    Returns
    -------
    str

    Examples
    --------
    >>> explain(errno.ENOSPC, '/out/a.nii')
    '/out/a.nii: No space left on device; free some space, then run the same command again'
    """
    advice = _ADVICE.get(number)
    if path is not None and (path == _MEMORY_FOLDER or path.startswith(f'{_MEMORY_FOLDER}/')):
        advice = 'make shared memory writable (Apptainer: --bind /dev/shm), or give --nprocs 1'
    return (f'{path}: ' if path else '') + os.strerror(number) + (f'; {advice}' if advice else '')


def explain_error(error: OSError) -> str:
    """Say in one line what the operating system refused, of which file, and what to do.

    Parameters
    ----------
    error : OSError
        Some, such as those of damaged archives and locks, are not the system's: they say it.

    Examples
    --------
    >>> explain_error(FileNotFoundError(errno.ENOENT, 'No such file', b'/in/a.nii'))
    '/in/a.nii: No such file or directory; make it, or give another path'
    >>> explain_error(OSError('not a gzipped file'))
    'not a gzipped file'
    """
    if error.errno is None:
        return ' '.join(str(error).split()) or type(error).__name__
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return explain(error.errno, ' -> '.join(map(os.fsdecode, names)) or None)


def describe(error: Exception) -> str:
    """Say in one line what went wrong: an error of the system, or any other with its type."""
    if isinstance(error, OSError):
        return explain_error(error)
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory could not be had; PyTorch has no type for it on the CPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ('out of memory', 'not enough memory', "can't allocate memory")
    )
