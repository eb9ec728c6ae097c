"""Convert FreeSurfer's label maps of brains to label maps of heads for the generator.

Codes of ``aseg``, ``aparc+aseg``, Destrieux parcels and PetSurfer's ``gtmseg`` are mapped to
generation labels, the map is reoriented to RAS and resampled to 1 mm, unlabelled voxels within the
skull become corpus callosum or CSF, and the tissue of a donor's head is added (:mod:`.heads`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..images.geometry import orientation, spacing_mm, to_ras
from ..images.volume_io import read_label_map
from ..labels import (
    CSF,
    DRAWN_LESIONS,
    PART_OF,
    UNSIDED,
    LabelSchemeError,
    generation_labels,
    nearest_side,
    reference_table,
    segmentation_labels,
    translate,
)
from .heads import MARGINS_MM, Donor, add_head, closed, donor_from_labels

#: Code of midline white matter, see :data:`synthseg_bids.labels.UNSIDED`, and of lesions.
WHITE, LESION = -1, -3
#: Left and right generation labels of codes without a side.
SIDES = UNSIDED | {LESION: DRAWN_LESIONS}
#: A map is of a head if extra-cerebral labels exceed this share of its labelled voxels.
HEAD_SHARE = 0.4
#: Radius of the ball that closes the sulci, and thickness of the CSF around the brain, in mm for a
#: brain of 1,300 ml.
SULCI_MM, CSF_MM = 9.0, 2.0
ADULT_MM3 = 1.3e6


@lru_cache(maxsize=1)
def folding_table() -> dict[int, int]:
    """Return the generation label, or the key of :data:`SIDES`, of each known code."""
    table = reference_table() | {label.index: label.index for label in generation_labels()}
    table |= {31: 136, 63: 163, 77: LESION, 78: 25, 79: 57, 80: WHITE, 170: 16}
    table |= {173: 16, 174: 16, 175: 16, 24: CSF, 257: CSF, 130: 0, 165: 515, 258: 507}
    return table


@dataclass(frozen=True)
class PreparedMap:
    """A label map of a head.

    Attributes
    ----------
    labels : (x, y, z) int16 array
        Generation labels in RAS orientation, voxels of 1 mm.
    affine : (4, 4) array
    merged : list of list of int
        Groups of segmentation labels that the map does not distinguish; voxels have the first
        label of their group.
    notes : dict
        Facts about the preparation: volumes that were filled, spacing, donor.
    """

    labels: np.ndarray
    affine: np.ndarray
    merged: list[list[int]]
    notes: dict[str, object]


def fold_codes(codes: np.ndarray, source: str = 'label map') -> np.ndarray:
    """Translate FreeSurfer's codes to generation labels.

    Parameters
    ----------
    codes : (x, y, z) integer array
    source : str
        Name of the map in error messages.

    Returns
    -------
    (x, y, z) int16 array

    Raises
    ------
    LabelSchemeError
        If a code is unknown; the message names it.
    """
    return translate(codes, folding_table(), SIDES, source)


def resampled(
    labels: np.ndarray, affine: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a label map to 1 mm: each voxel gets the label of the largest share.

    Parameters
    ----------
    labels : (x, y, z) int16 array
    affine : (4, 4) array
        With the axes of the world.
    spacing : (3,) array
        In mm.

    Returns
    -------
    labels : (x', y', z') int16 array
    affine : (4, 4) array
    """
    if np.allclose(spacing, 1, atol=1e-3):
        return labels, affine
    size = np.maximum(np.ceil(np.array(labels.shape) * spacing - 1e-3), 1).astype(int)
    step = 1 / spacing
    first = (step - 1) / 2
    best = np.zeros(size, dtype=np.float32)
    result = np.zeros(size, dtype=np.int16)
    # Average over the output voxel, so that no structure is lost between samples.
    boxes = np.maximum(step, 1)
    for value in np.unique(labels):
        share = (labels == value).astype(np.float32)
        if (boxes > 1.2).any():
            share = ndimage.uniform_filter(share, np.round(boxes).astype(int))
            shift = first + (np.round(boxes) % 2 == 0) * 0.5
        else:
            shift = first
        with warnings.catch_warnings():
            # Until SciPy 1.16 every call with one factor per axis warned of a change in 0.18.
            warnings.filterwarnings('ignore', 'The behavior of affine_transform')
            share = ndimage.affine_transform(share, step, shift, tuple(size), order=1)
        better = share > best
        best[better], result[better] = share[better], value
    new_affine = affine.copy()
    new_affine[:3, :3] = affine[:3, :3] * step
    new_affine[:3, 3] += affine[:3, :3] @ first
    return result, new_affine


def fill_inside(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
    """Label unlabelled voxels within the skull.

    Small holes get the nearest label. Voxels between white matter, deep grey matter or ventricles
    of the two sides are corpus callosum, which some maps leave out: white matter of its side. All
    others are CSF.

    Parameters
    ----------
    labels : (x, y, z) int16 array
        Generation labels.

    Returns
    -------
    labels : (x, y, z) int16 array
    inside : (x, y, z) bool array
        Mask of the inside of the skull.
    notes : dict
    """
    labels = labels.copy()
    outside = [label.index for label in generation_labels() if label.extracerebral]
    brain = (labels > 0) & ~np.isin(labels, outside)
    size = float((brain & (labels != CSF)).sum() / ADULT_MM3) ** (1 / 3)
    inside = closed(brain, SULCI_MM * size, max(CSF_MM * size, 1.0)) & ~np.isin(labels, outside)
    inside |= brain
    empty = inside & ~brain
    callosum = empty & _between_white_matter(labels)
    sides = nearest_side(labels, callosum) if callosum.any() else np.zeros(0, np.int16)
    labels[callosum] = sides
    holes = ndimage.binary_fill_holes(labels > 0) & (labels == 0)
    if holes.any():
        nearest = ndimage.distance_transform_edt(
            labels == 0, return_distances=False, return_indices=True
        )
        labels[holes] = labels[tuple(axis[holes] for axis in nearest)]
    labels[inside & (labels == 0)] = CSF
    notes: dict[str, object] = {
        'callosum_ml': round(float(callosum.sum()) / 1000, 1),
        'holes_ml': round(float(holes.sum()) / 1000, 1),
        'fluid_ml': round(float((labels == CSF).sum()) / 1000, 1),
    }
    return labels, inside, notes


def _between_white_matter(labels: np.ndarray) -> np.ndarray:
    """Return a mask of unlabelled voxels with inner structures on the left and on the right."""
    inner = (2, 41, 4, 43, 25, 57, 136, 163, 10, 49, 11, 50)
    reach = 14
    found = np.ones(labels.shape, dtype=bool)
    for step in (1, -1):
        seen = labels
        for _ in range(reach):
            moved = np.zeros_like(seen)
            if step == 1:
                moved[1:] = seen[:-1]
            else:
                moved[:-1] = seen[1:]
            seen = np.where(seen == 0, moved, seen)
        found &= np.isin(seen, inner)
    return found & (labels == 0)


def merged_labels(labels: np.ndarray) -> list[list[int]]:
    """Return the groups of segmentation labels that a map does not distinguish."""
    target = {label.index: label.target for label in generation_labels()}
    present = {target[int(value)] for value in np.unique(labels)}
    groups: dict[int, list[int]] = {}
    for label in segmentation_labels():
        if label.index not in present and label.index in PART_OF:
            whole = PART_OF[label.index]
            groups.setdefault(whole, [whole]).append(label.index)
    return list(groups.values())


def find_donors(folders: Sequence[Path]) -> list[Path]:
    """List the label maps of heads in some folders, alternating between folders.

    Raises
    ------
    LabelSchemeError
        If a folder has none.
    """
    found = []
    for folder in folders:
        paths = sorted(p for p in folder.glob('*') if p.name.endswith(('.nii', '.nii.gz')))
        if not paths:
            raise LabelSchemeError(f'{folder}: no label maps of heads (.nii, .nii.gz)')
        found.append(paths)
    rounds = zip_longest(*found)
    return [path for one in rounds for path in one if path is not None]


@lru_cache(maxsize=4)
def read_donor(path: Path) -> Donor:
    """Read a head, in RAS orientation and resampled to 1 mm.

    Raises
    ------
    LabelSchemeError
        If it is not of a whole head.
    """
    volume = read_label_map(path)
    orient = orientation(volume.affine)
    affine = volume.grid.in_ras().affine
    labels = to_ras(volume.data, orient).astype(np.int16)
    labels, _ = resampled(labels, affine, spacing_mm(affine))
    try:
        return donor_from_labels(path.name, labels)
    except ValueError as error:
        raise LabelSchemeError(f'{path}: {error}') from error


def prepare_map(path: Path, donors: Sequence[Path] = (), number: int = 0) -> PreparedMap:
    """Convert a label map of a brain to one of a head.

    Parameters
    ----------
    path : Path
    donors : sequence of Path
        Label maps of heads; without any, only CSF surrounds the brain.
    number : int
        Number of the donor, modulo the number of donors.

    Returns
    -------
    PreparedMap

    Raises
    ------
    LabelSchemeError
        If it holds unknown codes.
    InputImageError
        If it cannot be read.
    """
    volume = read_label_map(path)
    orient = orientation(volume.affine)
    affine = volume.grid.in_ras().affine
    labels = fold_codes(to_ras(volume.data, orient), str(path))
    spacing = spacing_mm(affine)
    labels, affine = resampled(labels, affine, spacing)
    labels, affine = _with_margins(labels, affine)
    merged = merged_labels(labels)
    outside = np.isin(labels, [la.index for la in generation_labels() if la.extracerebral])
    has_head = bool(outside.sum() > HEAD_SHARE * (labels > 0).sum())
    if not has_head:
        # PetSurfer labels only the tissue next to the brain.
        labels[outside] = 0
    labels, inside, notes = fill_inside(labels)
    notes['spacing_mm'] = spacing.round(3).tolist()
    if donors and not has_head:
        donor = read_donor(donors[number % len(donors)])
        labels = add_head(labels, inside, donor)
        notes['donor'] = donor.name
    return PreparedMap(labels, affine, merged, notes)


def _with_margins(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop or pad a map to the bounding box of its labels with room for a head."""
    where = [np.flatnonzero((labels > 0).any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    first = [int(w[0]) - low for w, (low, _) in zip(where, MARGINS_MM, strict=True)]
    last = [int(w[-1]) + 1 + high for w, (_, high) in zip(where, MARGINS_MM, strict=True)]
    result = np.zeros([b - a for a, b in zip(first, last, strict=True)], dtype=np.int16)
    inner = tuple(
        slice(max(a, 0), min(b, n)) for a, b, n in zip(first, last, labels.shape, strict=True)
    )
    target = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inner, first, strict=True))
    result[target] = labels[inner]
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(first, dtype=float)
    return result, affine
