"""A label map of a small head, to make scans from."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def write_head(path: Path) -> None:
    """Write ventricles, white matter and cortex, left and right, in fluid."""
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[2:30, 2:30, 2:30] = 24
    labels[5:27, 5:27, 5:27] = 3
    labels[8:24, 8:24, 8:24] = 2
    labels[12:20, 13:19, 13:19] = 4
    labels[16:][labels[16:] == 4] = 43
    labels[16:][labels[16:] == 3] = 42
    labels[16:][labels[16:] == 2] = 41
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, 1, 1, 1])), path)
