"""Reorient images as other programs do, without touching their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..files import copy_file, write_whole


def copy_canonical(source: Path, path: Path) -> None:
    """Copy an image, its axes swapped and flipped to RAS as closely as they can be.

    It is what ``Conform`` of niworkflows, and so sMRIPrep, does to a scan before anything else,
    by the same function of nibabel; masks fit the scan afterwards if they went the same way.

    Parameters
    ----------
    source : Path
        NIfTI.
    path : Path
        ``.nii`` or ``.nii.gz``; appears once it is complete.
    """
    image: Any = nib.load(source)
    if nib.aff2axcodes(image.affine) == ('R', 'A', 'S'):
        copy_file(source, path)
        return
    scaling = image.dataobj.slope, image.dataobj.inter
    # Values as they are stored: nibabel would scale them, and again when it saves.
    stored = nib.Nifti1Image(
        np.asanyarray(image.dataobj.get_unscaled()), image.affine, image.header
    )
    canonical = nib.as_closest_canonical(stored)
    canonical.header.set_slope_inter(*scaling)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: nib.save(canonical, temporary))
