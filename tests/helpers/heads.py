"""Label maps of small heads made of boxes, to train on."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def write_heads(folder: Path, count: int = 3, scale: int = 1) -> Path:
    """Write heads that differ a little, `scale` times 24 voxels wide; return their folder."""
    for i in range(count):
        data = np.zeros((24, 24, 24), np.int16)
        data[2:22, 2:22, 2:22] = 507
        data[4:20, 4:20, 4:20] = 24
        data[12:19, 5:19, 5 + i : 19], data[5:12, 5:19, 5 + i : 19] = 3, 42
        data[13:17, 7:17, 7:17], data[7:11, 7:17, 7:17] = 2, 41
        for axis in range(3):
            data = data.repeat(scale, axis)
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f'map-{i}_dseg.nii.gz')
    return folder
