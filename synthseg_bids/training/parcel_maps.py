"""Read label maps with cortical parcels, for training the parcel network.

A map has the codes of FreeSurfer's aparc+aseg. Beside it, other segmentations of the same head in
the same world coordinates may be given, as networks make them of (synthetic) scans: the network
then learns to name the parcels of cortex that is not quite where FreeSurfer has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..images.geometry import Grid, bounding_box, orientation, spacing_mm, to_ras
from ..images.volume_io import read_label_map
from ..inference.hemispheres import CLASSES
from ..labels import LabelSchemeError, generation_labels
from ..measure.overlap import resample_nearest
from ..parcels import PARCEL_NUMBERS, SIDES
from ..synth.label_maps import ADULT
from ..synth.prepare_labels import fold_codes

#: Values of a code are ``class * RADIX + parcel``: classes from 1 (0 for all else), parcels from 1
#: in the order of PARCEL_NUMBERS (0 for none).
RADIX = len(PARCEL_NUMBERS) + 1
#: Class of cortex in codes.
CORTEX_CLASS = 1
#: Cortex of a segmentation that is farther from the map's cortex has no parcel.
REACH_MM = 4.0
#: Background around a hemisphere, for rotations and stretching.
MARGINS_MM = (8, 16, 16)
#: Voxels around the map in which its segmentations are read.
ROOM = 8
#: The smallest number of parcels on both sides that a map for training may have.
MIN_PARCELS = 60


@dataclass(frozen=True)
class ParcelMap:
    """The hemispheres of a person, with parcels.

    Attributes
    ----------
    name : str
        File name of the label map.
    hemispheres : mapping of str to tuple of (x, y, z) uint8 tensor
        For each side the codes of the map and then those of its segmentations, on a grid of 1 mm,
        in RAS orientation; right ones mirrored.
    """

    kind: ClassVar[str] = 'parcel_maps'
    spacing_mm: ClassVar[float] = 1.0
    age_group: ClassVar[str] = ADULT

    name: str
    hemispheres: dict[str, tuple[Tensor, ...]]

    def to(self, _: torch.device | str) -> ParcelMap:
        """Stay on the CPU, where samples are made."""
        return self


@lru_cache(maxsize=2)
def _class_of(side: str) -> dict[int, int]:
    """Return the class of each generation label of a side, from 1."""
    segmented = {
        label: number for number, own in enumerate(CLASSES[side], start=1) for label in own
    }
    return {
        label.index: segmented[label.target]
        for label in generation_labels()
        if label.target in segmented
    }


def load_parcel_map(path: Path, segmentations: Sequence[Path] = ()) -> ParcelMap:
    """Read a label map with parcels, and segmentations of the same head.

    Parameters
    ----------
    path : Path
        Codes of FreeSurfer's aparc+aseg, of the Desikan-Killiany atlas.
    segmentations : sequence of Path
        Segmentation labels; on any grid.

    Returns
    -------
    ParcelMap

    Raises
    ------
    LabelSchemeError
        If it has no such parcels.
    InputImageError
        If a file cannot be read.
    """
    volume = read_label_map(path)
    numbers = [first + number for _, first in SIDES.values() for number in PARCEL_NUMBERS]
    found = len(np.unique(volume.data[np.isin(volume.data, numbers)]))
    if found < MIN_PARCELS:
        raise LabelSchemeError(
            f"{path}: {found} of the 68 parcels of FreeSurfer's aparc+aseg (1001 to 2035); give "
            'label maps with these'
        )
    affine = volume.grid.in_ras().affine
    raw = to_ras(volume.data, orientation(volume.affine))
    raw, affine = _filled(*_at_1mm(raw, affine))
    folded = fold_codes(raw, str(path))
    others = [_on_grid(one, raw.shape, affine) for one in segmentations]
    hemispheres = {}
    for side, (_, first) in SIDES.items():
        box = _box(_classes(folded, side))
        parts = [np.ascontiguousarray(_padded(one, box)) for one in (raw, folded, *others)]
        codes = _codes(parts[0] - first, parts[1:], side)
        step = -1 if side == 'right' else 1
        hemispheres[side] = tuple(
            torch.from_numpy(np.ascontiguousarray(one[::step])) for one in codes
        )
    return ParcelMap(path.name, hemispheres)


def _at_1mm(codes: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the nearest voxel at each millimetre."""
    steps = 1 / spacing_mm(affine)
    if np.allclose(steps, 1, atol=1e-3):
        return codes, affine
    sizes = np.ceil(np.array(codes.shape) / steps - 1e-3).astype(int)
    index = [
        np.minimum(((np.arange(n) + 0.5) * step).astype(int), old - 1)
        for n, step, old in zip(sizes, steps, codes.shape, strict=True)
    ]
    scaled = affine.copy()
    scaled[:3, :3] *= steps
    scaled[:3, 3] += affine[:3, :3] @ ((steps - 1) / 2)
    return codes[np.ix_(*index)], scaled


def _filled(codes: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop to the box of the voxels that have a code, with room for other segmentations."""
    box = bounding_box(codes > 0)
    assert box is not None  # there are parcels
    cropped = affine.copy()
    cropped[:3, 3] += affine[:3, :3] @ [part.start - ROOM for part in box]
    return np.pad(codes[box], ROOM), cropped


def _on_grid(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Read a segmentation and take the nearest voxel at each voxel of another grid."""
    volume = read_label_map(path)
    labels = resample_nearest(volume.data, volume.affine, Grid(shape, affine))
    return fold_codes(labels, str(path))


def _classes(labels: np.ndarray, side: str) -> np.ndarray:
    """Return the class of each voxel: 0 for other labels and for those of the other side."""
    table = np.zeros(int(labels.max()) + 1, dtype=np.uint8)
    for label, number in _class_of(side).items():
        table[label : label + 1] = number
    return table[labels]


def _box(classes: np.ndarray) -> list[slice]:
    """Return the box of cortex and white matter with margins; it may reach beyond the volume."""
    box = bounding_box((classes == 1) | (classes == 2))
    assert box is not None  # there are parcels
    return [
        slice(part.start - margin, part.stop + margin)
        for part, margin in zip(box, MARGINS_MM, strict=True)
    ]


def _padded(labels: np.ndarray, box: Sequence[slice]) -> np.ndarray:
    """Return a box of a volume, with zeros where it reaches beyond it."""
    inner = tuple(
        slice(max(part.start, 0), min(part.stop, n))
        for part, n in zip(box, labels.shape, strict=True)
    )
    pads = [
        (max(-part.start, 0), max(part.stop - n, 0))
        for part, n in zip(box, labels.shape, strict=True)
    ]
    return np.pad(labels[inner], pads)


def _codes(numbers: np.ndarray, labels: Sequence[np.ndarray], side: str) -> list[np.ndarray]:
    """Return the codes of a map and of its segmentations.

    Parameters
    ----------
    numbers : (x, y, z) integer array
        Numbers of parcels, as in FreeSurfer; others mean no parcel.
    labels : sequence of (x, y, z) integer array
        Generation labels of the map, and of its segmentations.
    side : {'left', 'right'}

    Returns
    -------
    list of (x, y, z) uint8 array
    """
    table = np.zeros(max(PARCEL_NUMBERS) + 1, dtype=np.uint8)
    table[list(PARCEL_NUMBERS)] = np.arange(1, RADIX)
    parcels = np.where((numbers > 0) & (numbers < len(table)), numbers, 0)
    parcels = table[parcels]
    classes = [_classes(one, side) for one in labels]
    if len(classes) > 1:
        apart = classes[0] != CORTEX_CLASS
        distance, nearest = ndimage.distance_transform_edt(apart, return_indices=True)
        parcels = np.where(distance <= REACH_MM, parcels[tuple(nearest)], 0)
    return [(one * RADIX + parcels * (one == CORTEX_CLASS)).astype(np.uint8) for one in classes]
