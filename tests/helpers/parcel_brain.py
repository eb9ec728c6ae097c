"""A brain of two boxes, with white matter inside, and 34 stripes of cortex on each side."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from synthseg_bids.labels import fold_reference, network_labels
from synthseg_bids.parcels import PARCEL_NUMBERS, SIDES

SHAPE = (46, 60, 34)
#: Voxels between a hemisphere and the edges, and between both.
GAP = 4
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def brain() -> np.ndarray:
    """Return an aparc+aseg map in RAS orientation, symmetric but for the labels."""
    x, y, z = SHAPE
    half = np.zeros((x // 2, y, z), dtype=np.int32)
    cortex = half[GAP:-2, GAP:-GAP, GAP:-GAP]
    stripe = np.arange(cortex.shape[1]) * len(PARCEL_NUMBERS) // cortex.shape[1]
    cortex[:] = np.array(PARCEL_NUMBERS)[stripe][:, None]
    half[half > 0] += SIDES['left'][1]
    half[GAP + 3 : -5, GAP + 3 : -GAP - 3, GAP + 3 : -GAP - 3] = 2
    half[-9:-5, 25:35, 14:20] = 10
    other = half[::-1].copy()
    other[other > 1000] += 1000
    other[other == 2], other[other == 10] = 41, 49
    return np.concatenate([half, other])


def write_brain(folder: Path, name: str = 'one', affine: np.ndarray = AFFINE) -> Path:
    """Write the map; one affine that runs backwards flips its voxels, too."""
    path = folder / f'{name}_dseg.nii.gz'
    steps = tuple(slice(None, None, int(np.sign(n))) for n in np.diag(affine)[:3])
    nib.Nifti1Image(brain()[steps].astype(np.int16), affine).to_filename(path)
    return path


def posteriors_of(parcels: np.ndarray) -> torch.Tensor:
    """Return the one-hot posteriors of a map's segmentation labels."""
    folded = fold_reference(parcels)
    return torch.stack([torch.from_numpy(folded == label) for label in network_labels()]).float()
