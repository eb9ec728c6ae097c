"""Small volumes on an oblique grid, for the tests of reading and writing."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.array([[0, 0.1, -3, 40], [-0.9, 0, 0, 50], [0, 0.9, 0.4, -60], [0, 0, 0, 1.0]])


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path
