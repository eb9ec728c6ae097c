"""What a file says about the place of its voxels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from nibabel import imageglobals

#: Set while what nibabel says of a header is nobody's concern, in this thread or task alone.
_QUIET: ContextVar[bool] = ContextVar('_QUIET', default=False)


def _let_pass(_: logging.LogRecord) -> bool:
    return not _QUIET.get()


imageglobals.logger.addFilter(_let_pass)


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Silence nibabel's own lines about headers, which it repairs and we check ourselves.

    Its own ``LoggingOutputSuppressor`` takes the handlers away from all threads, and lets lines
    pass to the root logger.
    """
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


@dataclass(frozen=True)
class Header:
    """What a scan's header says about its place, and what was wrong with its voxels.

    Attributes
    ----------
    sform, qform : (4, 4) array, or None
        None where the code is 0 or the format has none.
    sform_code, qform_code : int, or None
        None for formats without.
    n_not_finite : int
        Voxels that were not a number or infinite when read.
    """

    sform: np.ndarray | None = None
    qform: np.ndarray | None = None
    sform_code: int | None = None
    qform_code: int | None = None
    n_not_finite: int = 0
