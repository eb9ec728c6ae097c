"""Overlap of the parcels of the cortex in two aparc+aseg maps.

Only parcels of both schemes are compared: where a map is of DKT, not those three that it gives to
their neighbours. Of these neighbours the overlap with a map of the Desikan-Killiany atlas stays
below 1 even where both are right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..images.geometry import Grid
from ..parcels import NOT_IN_DKT, PARCEL_NUMBERS, SIDES, parcel_labels
from .overlap import dice_per_label, resample_nearest, volumes_from_labels
from .stats import mean_of_known

#: Name of the row that averages all parcels.
MEAN_OF_PARCELS = 'Mean-of-Parcels'


def numbers_present(labels: np.ndarray) -> set[int]:
    """Return the numbers of the parcels that a label map has on either side.

    Parameters
    ----------
    labels : integer array
        Not negative; with the numbers of an aparc+aseg map.

    Examples
    --------
    >>> numbers_present(np.array([3, 1002, 2002, 2035]))
    {2, 35}
    """
    found = {
        int(label) - first
        for label in np.flatnonzero(np.bincount(labels.ravel()))
        for _, first in SIDES.values()
    }
    return found & {*PARCEL_NUMBERS}


def not_in_scheme(labels: np.ndarray) -> tuple[int, ...]:
    """Return the numbers of the parcels that the scheme of a map does not have.

    Parameters
    ----------
    labels : integer array
        See :func:`numbers_present`.

    Returns
    -------
    tuple of int
        All, if the map has no parcels; :data:`.parcels.NOT_IN_DKT`, if it has none of those;
        none, if it has.
    """
    present = numbers_present(labels)
    if not present:
        return PARCEL_NUMBERS
    return () if present & {*NOT_IN_DKT} else NOT_IN_DKT


def compare_parcels(
    parcels: np.ndarray,
    affine: np.ndarray,
    reference: np.ndarray,
    reference_affine: np.ndarray,
) -> list[dict[str, Any]]:
    """Compare the parcels of two maps, on the grid of the reference.

    Parameters
    ----------
    parcels : (x, y, z) integer array
        An aparc+aseg map.
    affine : (4, 4) array
    reference : (x', y', z') integer array
        Another one, of the Desikan-Killiany atlas or of DKT.
    reference_affine : (4, 4) array

    Returns
    -------
    list of dict
        One per parcel of both schemes and side: ``index``, ``name``, ``dice`` (NaN where neither
        map holds it), ``volume_mm3`` and ``reference_volume_mm3``. The last one is their mean,
        with ``name`` and ``dice`` only. Empty if either map has no parcels.
    """
    left_out = {*not_in_scheme(parcels), *not_in_scheme(reference)}
    compared = [
        label for label in parcel_labels() if label.index - SIDES[label.side][1] not in left_out
    ]
    if not compared:
        return []
    reference_grid = Grid(reference.shape, reference_affine)
    if not Grid(parcels.shape, affine).is_close(reference_grid):
        parcels = resample_nearest(parcels, affine, reference_grid)
    dice = dice_per_label(parcels, reference, [label.index for label in compared])
    ours, theirs = (volumes_from_labels(x, reference_affine) for x in (parcels, reference))
    rows = [
        {
            'index': label.index,
            'name': label.name,
            'dice': dice[label.index],
            'volume_mm3': ours.get(label.index, (0, 0.0))[1],
            'reference_volume_mm3': theirs.get(label.index, (0, 0.0))[1],
        }
        for label in compared
    ]
    return [*rows, {'name': MEAN_OF_PARCELS, 'dice': mean_of_known(dice.values())}]


def names_of(numbers: Iterable[int]) -> str:
    """Name parcels without their side.

    Examples
    --------
    >>> names_of((1, 32, 33))
    'bankssts, frontalpole, temporalpole'
    """
    left = {label.index: label.name for label in parcel_labels()}
    first = SIDES['left'][1]
    return ', '.join(left[first + number].rpartition('-')[2] for number in numbers)
