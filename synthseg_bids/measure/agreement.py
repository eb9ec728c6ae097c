"""Agreement of two segmentations of one head, after a rigid alignment.

No intensities are registered: the two label maps are laid over each other by the centroids of
their structures, as rigid bodies, and compared voxel by voxel. What remains is the disagreement
of the segmentations plus what little a rigid motion cannot undo.

One contrast may show lesions that another does not, so lesions count as the tissue that they lie
in; where both maps have some, they are compared as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..images.geometry import Grid, bounding_box, spacing_mm, voxel_volume_mm3
from ..labels import CSF, LESION, LESION_TISSUES, channel_labels
from .overlap import dice_per_label, paper_dice, resample_nearest, volumes_from_labels

#: Fewer common structures than this do not fix a position (three do, unless they are in line).
MIN_STRUCTURES = 4
#: Spacing of the grid on which overlaps are counted.
GRID_MM = 1.0


class AlignmentError(ValueError):
    """Two label maps have too few common structures to be aligned."""


@dataclass(frozen=True)
class Outline:
    """A label map with its volumes and centroids, which every comparison needs.

    Attributes
    ----------
    labels : (x, y, z) integer array
        The part of the map that is not background; lesions have the label of their tissue.
    affine : (4, 4) array
        Of that part.
    lesions : (x, y, z) boolean array or None
        Where the lesions are; None if there are none.
    volumes_mm3 : dict of int to float
        Of every segmentation label; those of tissues include lesions, of which the volume is
        there only if there are some.
    centroids : dict of int to (3,) array
        In mm, of the labels that are present and do not run out of the head: neither background
        nor the fluid around the brain, whose extent depends on the field of view.
    """

    labels: np.ndarray
    affine: np.ndarray
    lesions: np.ndarray | None
    volumes_mm3: dict[int, float]
    centroids: dict[int, np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """Agreement of a second label map with a first one.

    Attributes
    ----------
    dice : dict of int to float
        Of every segmentation label but background; NaN where neither map has it. Of lesions
        only if both maps have some.
    mean_dice : float
        Over the twelve structures of the SynthSeg paper.
    volumes_1_mm3, volumes_2_mm3 : dict of int to float
    rotation_degrees : float
        Angle by which the second map was turned.
    shift_mm : float
        How far the centre of the second map's structures was moved.
    residual_mm : float
        Weighted root mean square distance of the centroids that remains.
    """

    dice: dict[int, float]
    mean_dice: float
    volumes_1_mm3: dict[int, float]
    volumes_2_mm3: dict[int, float]
    rotation_degrees: float
    shift_mm: float
    residual_mm: float


def outline(labels: np.ndarray, affine: np.ndarray) -> Outline:
    """Measure the volumes and centroids of a label map.

    Parameters
    ----------
    labels : (x, y, z) integer array
        Segmentation labels.
    affine : (4, 4) array

    Returns
    -------
    Outline
    """
    box = bounding_box(labels != 0) or (slice(0, 0),) * 3
    start = [part.start for part in box]
    labels, affine = labels[box], np.array(affine, dtype=float)
    affine[:3, 3] += affine[:3, :3] @ start
    lesions = labels == LESION
    if has_lesions := bool(lesions.any()):
        labels = _with_tissue(labels, lesions, spacing_mm(affine))
    places = np.nonzero(labels)
    values = labels[places]
    counts = np.bincount(values, minlength=1)
    sums = np.array([np.bincount(values, weights=along, minlength=1) for along in places])
    centroids = {
        int(label): affine[:3, :3] @ (sums[:, label] / counts[label]) + affine[:3, 3]
        for label in np.flatnonzero(counts)
        if label != CSF
    }
    volumes = {label: mm3 for label, (_, mm3) in volumes_from_labels(labels, affine).items()}
    if has_lesions:
        volumes[LESION] = float(lesions.sum()) * voxel_volume_mm3(affine)
    return Outline(labels, affine, lesions if has_lesions else None, volumes, centroids)


def _with_tissue(labels: np.ndarray, lesions: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Give each voxel of a lesion the label of the nearest tissue that may have lesions."""
    from scipy.spatial import KDTree  # takes a second, and few processes need it

    tissue = np.argwhere(np.isin(labels, LESION_TISSUES))
    if not len(tissue):
        return labels
    nearest = KDTree(tissue * spacing).query(np.argwhere(lesions) * spacing)[1]
    found = labels.copy()
    found[lesions] = labels[tuple(tissue[nearest].T)]
    return found


def kabsch(moving: np.ndarray, fixed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Find the rigid motion that brings points closest to others.

    Parameters
    ----------
    moving, fixed : (n, 3) array
    weights : (n,) array
        Not negative.

    Returns
    -------
    (4, 4) float array
        A rotation, never a reflection, then a translation: the least weighted sum of squared
        distances (Kabsch, Acta Cryst. A32:922, 1976, and A34:827, 1978).
    """
    weights = weights / weights.sum()
    from_centre, to_centre = weights @ moving, weights @ fixed
    covariance = (moving - from_centre).T @ ((fixed - to_centre) * weights[:, None])
    left, _, right = np.linalg.svd(covariance)
    # If the best orthogonal matrix is a reflection, invert the axis of least covariance.
    sign = np.sign(np.linalg.det(left @ right))
    motion = np.eye(4)
    motion[:3, :3] = right.T @ np.diag([1, 1, sign]) @ left.T
    motion[:3, 3] = to_centre - motion[:3, :3] @ from_centre
    return motion


def compare(one: Outline, other: Outline) -> Agreement:
    """Align a second label map with a first one and compare them.

    A structure weighs in by the root of its volume. The centroid of a large one is surer, but
    were weights the volumes themselves, white matter and cortex would decide alone, whose
    centroids lie nearly on one line, about which the head could turn freely.

    Parameters
    ----------
    one, other : Outline

    Returns
    -------
    Agreement
        Overlaps are counted on a grid of 1 mm along the axes of the world that holds both maps,
        each looked up at the nearest of its voxels.

    Raises
    ------
    AlignmentError
        If the maps have fewer than four structures in common.
    """
    common = sorted({*one.centroids} & {*other.centroids})
    if len(common) < MIN_STRUCTURES:
        raise AlignmentError(f'only {len(common)} structures in common')
    fixed = np.array([one.centroids[label] for label in common])
    moving = np.array([other.centroids[label] for label in common])
    weights = np.array(
        [(one.volumes_mm3[label] * other.volumes_mm3[label]) ** 0.25 for label in common]
    )
    motion = kabsch(moving, fixed, weights)
    centre = np.average(moving, axis=0, weights=weights)
    apart = moving @ motion[:3, :3].T + motion[:3, 3] - fixed
    moved = motion @ other.affine
    grid = _common_grid(Grid(one.labels.shape, one.affine), Grid(other.labels.shape, moved))
    first = resample_nearest(one.labels, one.affine, grid)
    second = resample_nearest(other.labels, moved, grid)
    dice = dice_per_label(first, second, [label for label in channel_labels() if label])
    if one.lesions is not None and other.lesions is not None:
        lesions = resample_nearest(one.lesions, one.affine, grid)
        others = resample_nearest(other.lesions, moved, grid)
        dice[LESION] = dice_per_label(lesions, others, [True])[True]
    cosine = (np.trace(motion[:3, :3]) - 1) / 2
    return Agreement(
        dice=dice,
        mean_dice=paper_dice(first, second)['mean'],
        volumes_1_mm3=one.volumes_mm3,
        volumes_2_mm3=other.volumes_mm3,
        rotation_degrees=float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
        shift_mm=float(np.linalg.norm(motion[:3, :3] @ centre + motion[:3, 3] - centre)),
        residual_mm=float(np.sqrt(np.average((apart**2).sum(axis=1), weights=weights))),
    )


def _common_grid(*grids: Grid) -> Grid:
    """Return a grid along the world axes that covers all others."""
    corners = np.concatenate([
        np.array(list(product(*((-0.5, n - 0.5) for n in grid.shape)))) @ grid.affine[:3, :3].T
        + grid.affine[:3, 3]
        for grid in grids
    ])  # fmt: skip
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = low + GRID_MM / 2
    return Grid(tuple(int(n) for n in np.ceil((high - low) / GRID_MM)), affine)
