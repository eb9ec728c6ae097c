"""What a file says about the place of its voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
