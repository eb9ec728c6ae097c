"""Geometry in an image's header, and nibabel's messages about headers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import imageglobals

#: Whether nibabel's messages about headers are dropped in this thread or task.
_QUIET: ContextVar[bool] = ContextVar('_QUIET', default=False)
imageglobals.logger.addFilter(lambda record: not _QUIET.get())


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Silence nibabel's messages about headers, which it repairs and we check ourselves.

    nibabel's ``LoggingOutputSuppressor`` removes handlers for all threads, and messages still
    reach the root logger.
    """
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


@dataclass(frozen=True)
class Header:
    """Geometry in a scan's header, and the number of invalid voxels.

    Attributes
    ----------
    sform, qform : (4, 4) array, or None
        None if the code is 0 or the format has none.
    sform_code, qform_code : int, or None
        None for formats without.
    n_not_finite : int
        Number of voxels that were NaN or infinite.
    """

    sform: np.ndarray | None = None
    qform: np.ndarray | None = None
    sform_code: int | None = None
    qform_code: int | None = None
    n_not_finite: int = 0


def header_of(header: Any, n_not_finite: int = 0) -> Header:
    """Return what quality control needs of a nibabel header; forms are those of NIfTI only."""
    if not isinstance(header, nib.Nifti1Header):
        return Header(n_not_finite=n_not_finite)
    try:
        qform = header.get_qform(coded=True)[0]
    except ValueError:  # no rotation
        qform = None
    return Header(
        sform=header.get_sform(coded=True)[0],
        qform=qform,
        sform_code=int(header['sform_code']),
        qform_code=int(header['qform_code']),
        n_not_finite=n_not_finite,
    )
