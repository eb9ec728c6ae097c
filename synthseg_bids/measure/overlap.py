"""Volumes of structures, and overlap between segmentations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..images.geometry import Grid, spacing_mm, voxel_volume_mm3
from ..labels import (
    LESION,
    PAPER_STRUCTURES,
    PART_OF,
    channel_labels,
    fold_reference,
    nearest_side,
    segmentation_labels,
)
from .stats import mean_of_known

#: Name of the sum of all structures, the volume inside the skull.
TOTAL_NAME = 'Total-Intracranial'

#: Least part of a reference that must lie in a scan's field of view.
MIN_SHARE_IN_VIEW = 0.5

#: Name of the row that averages the paper's 12 structures.
MEAN_NAME = 'Mean-of-12-Structures'


class FieldOfViewError(ValueError):
    """Most of a reference lies outside the field of view of the segmentation."""


def volumes_from_labels(labels: np.ndarray, affine: np.ndarray) -> dict[int, tuple[int, float]]:
    """Count voxels.

    Parameters
    ----------
    labels : (x, y, z) integer array
        Not negative.
    affine : (4, 4) array

    Returns
    -------
    dict of int to (int, float)
        Number of voxels and volume in mm^3 of every segmentation label, present or not, and of
        any other label that is present; in ascending order.

    Examples
    --------
    >>> volumes_from_labels(np.full((2, 2, 2), 17), np.diag([1, 1, 3, 1]))[17]
    (8, 24.0)
    """
    voxel = voxel_volume_mm3(affine)
    counts = dict.fromkeys(channel_labels(), 0)
    counts |= _counts(labels)
    return {label: (count, count * voxel) for label, count in sorted(counts.items())}


def total_intracranial(volumes: Mapping[int, tuple[int, float]]) -> float:
    """Sum the volumes of all that is not background, cerebrospinal fluid included.

    Of a network that does not segment that fluid this is not the intracranial volume; see
    :func:`synthseg_bids.bids.tables.morph_rows`.

    Parameters
    ----------
    volumes : mapping of int to (int, float)
        From :func:`volumes_from_labels`.

    Returns
    -------
    float
        In mm^3.
    """
    return float(sum(volume for label, (_, volume) in volumes.items() if label != 0))


def dice_per_label(
    segmentation: np.ndarray, reference: np.ndarray, labels: Sequence[int]
) -> dict[int, float]:
    """Compute the Dice overlap of each label.

    Parameters
    ----------
    segmentation, reference : (x, y, z) integer array
        On the same grid; not negative.
    labels : sequence of int

    Returns
    -------
    dict of int to float
        From 0 to 1; NaN for labels that neither holds.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dice_per_label(np.array([17, 17, 0]), np.array([17, 0, 0]), [17, 18])
    {17: 0.6666666666666666, 18: nan}
    """
    if segmentation.shape != reference.shape:
        raise ValueError(f'shapes differ: {segmentation.shape} and {reference.shape}')
    count_a, count_b = _counts(segmentation), _counts(reference)
    common = _counts(segmentation[segmentation == reference])
    dice = {}
    for label in labels:
        total = count_a.get(label, 0) + count_b.get(label, 0)
        dice[label] = 2 * common.get(label, 0) / total if total else float('nan')
    return dice


def _counts(labels: np.ndarray) -> dict[int, int]:
    """Count each label that is present."""
    counts = np.bincount(labels.ravel())
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def paper_dice(segmentation: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compute the overlap as the MIDL 2020 paper reports it.

    Parameters
    ----------
    segmentation, reference : (x, y, z) integer array
        Segmentation labels on the same grid.

    Returns
    -------
    dict of str to float
        Of each of the 12 structures the mean of left and right, and their mean as ``mean``.
        Structures that neither holds are NaN and do not enter the mean.
    """
    labels = [label for sides in PAPER_STRUCTURES.values() for label in sides]
    dice = dice_per_label(segmentation, reference, labels)
    paper = {
        name: mean_of_known(dice[side] for side in sides)
        for name, sides in PAPER_STRUCTURES.items()
    }
    return paper | {'mean': mean_of_known(paper.values())}


def resample_nearest(labels: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Look up the label at the centre of each voxel of another grid.

    Parameters
    ----------
    labels : (x, y, z) integer array
    affine : (4, 4) array
    grid : Grid
        The other grid, of any orientation, oblique or not.

    Returns
    -------
    (x', y', z') integer array
        Type of `labels`; 0 outside their field of view.
    """
    to_index = np.linalg.inv(np.asarray(affine, float)) @ np.asarray(grid.affine, float)
    shape = np.array(labels.shape)
    result = np.zeros(grid.shape, dtype=labels.dtype)
    plane = np.indices(grid.shape[1:], dtype=float).reshape(2, -1)
    within_plane = to_index[:3, 1:3] @ plane + to_index[:3, 3:]
    for i in range(grid.shape[0]):
        # Rounded first, so that centres on a voxel border all fall to the same side of it.
        position = np.round(within_plane + to_index[:3, :1] * i, 4)
        index = np.floor(position + 0.5).astype(np.intp)
        inside = ((index >= 0) & (index < shape[:, None])).all(axis=0)
        x, y, z = index[:, inside]
        result[i].reshape(-1)[inside] = labels[x, y, z]
    return result


def share_in_view(reference: np.ndarray, reference_affine: np.ndarray, grid: Grid) -> float:
    """Compute which part of a label map lies in the field of view of an image.

    Parameters
    ----------
    reference : (x, y, z) integer array
    reference_affine : (4, 4) array
    grid : Grid
        That of the image.

    Returns
    -------
    float
        Part of the labelled voxels, 0 to 1.
    """
    voxels = np.argwhere(reference)
    # A sample of ten thousand voxels is enough.
    voxels = voxels[:: max(1, len(voxels) // 10_000)]
    to_image = np.linalg.inv(grid.affine) @ reference_affine
    places = voxels @ to_image[:3, :3].T + to_image[:3, 3]
    inside = ((places > -0.5) & (places < np.array(grid.shape) - 0.5)).all(axis=1)
    return float(inside.mean()) if len(inside) else 0.0


def as_distinguished(segmentation: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Merge labels of a segmentation that a reference does not distinguish.

    Parameters
    ----------
    segmentation, reference : (x, y, z) integer array
        Segmentation labels.

    Returns
    -------
    (x, y, z) integer array
        Lesions count as white matter. What the reference lacks on both sides because, as
        :data:`synthseg_bids.labels.PART_OF` says, it is part of a larger structure there, such as
        the white matter of a cerebellum in one piece, is that structure.

    Examples
    --------
    >>> as_distinguished(np.array([7, 8, 77, 2]), np.array([8, 8, 2, 2]))
    array([8, 8, 2, 2])
    """
    lesions = segmentation == LESION
    if lesions.any():
        segmentation = segmentation.copy()
        segmentation[lesions] = nearest_side(segmentation, lesions)
    present = {*_counts(reference)}
    mirror = {label.index: label.mirror for label in segmentation_labels()}
    for part, whole in PART_OF.items():
        if whole in present and not {part, mirror[part]} & present:
            segmentation = np.where(segmentation == part, whole, segmentation)
    return segmentation


def compare_to_reference(
    segmentation: np.ndarray,
    affine: np.ndarray,
    reference: np.ndarray,
    reference_affine: np.ndarray,
    source: str = 'reference',
    surfaces: bool = False,
) -> list[dict[str, Any]]:
    """Compare a segmentation with a FreeSurfer-style one, on the reference's own grid.

    Parameters
    ----------
    segmentation : (x, y, z) integer array
        Segmentation labels.
    affine : (4, 4) array
    reference : (x', y', z') integer array
        FreeSurfer or SAMSEG labels; see :func:`synthseg_bids.labels.fold_reference`. What it does
        not distinguish is not compared; see :func:`as_distinguished`.
    reference_affine : (4, 4) array
    source : str
        What to call the reference in an error message.
    surfaces : bool
        Whether to measure the distances of surfaces, too, which takes some seconds.

    Returns
    -------
    list of dict
        One per segmentation label but background: ``index``, ``name``, ``dice`` (NaN where
        neither holds the label), ``volume_mm3`` and ``reference_volume_mm3``, and with `surfaces`
        ``hd95_mm`` and ``surface_distance_mm`` (NaN where either lacks it). The last one is
        the mean over the paper's 12 structures, with ``name`` and ``dice`` only.

    Raises
    ------
    LabelSchemeError
        If the reference's labels are not FreeSurfer's.
    FieldOfViewError
        If most of the reference lies outside the segmentation's grid.
    """
    grid, reference_grid = (
        Grid(segmentation.shape, affine),
        Grid(reference.shape, reference_affine),
    )
    share = share_in_view(reference, reference_affine, grid)
    if share < MIN_SHARE_IN_VIEW:
        raise FieldOfViewError(
            f'{source}: only {share:.0%} of it lies in the field of view of the segmentation; '
            'give a reference in the same space'
        )
    folded = fold_reference(reference, source)
    if not grid.is_close(reference_grid):
        segmentation = resample_nearest(segmentation, affine, reference_grid)
    segmentation = as_distinguished(segmentation, folded)
    ours = volumes_from_labels(segmentation, reference_affine)
    theirs = volumes_from_labels(folded, reference_affine)
    structures = [label for label in segmentation_labels() if label.index != 0]
    dice = dice_per_label(segmentation, folded, [label.index for label in structures])
    rows: list[dict[str, Any]] = [
        {
            'index': label.index,
            'name': label.name,
            'dice': dice[label.index],
            'volume_mm3': ours[label.index][1],
            'reference_volume_mm3': theirs[label.index][1],
        }
        for label in structures
    ]
    if surfaces:
        # Here, since SciPy takes a third of a second to import.
        from .surface import surface_distances

        spacing = spacing_mm(reference_affine)
        for row in rows:
            ours_there, theirs_there = segmentation == row['index'], folded == row['index']
            found = surface_distances(ours_there, theirs_there, spacing)
            row['hd95_mm'], row['surface_distance_mm'] = found
    return [*rows, {'name': MEAN_NAME, 'dice': paper_dice(segmentation, folded)['mean']}]
