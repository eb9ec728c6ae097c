"""What all errors have in common that the user, not the program, can do something about."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FREE = 'free some space, then run the same command again'
_ELSEWHERE = 'change its permissions or choose another folder'
#: What to do about errors of the operating system.
_ADVICE = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: _FREE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
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
    return (f'{path}: ' if path else '') + os.strerror(number) + (f'; {advice}' if advice else '')
