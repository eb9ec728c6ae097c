"""Remove speckles from a parcellation: parts of a parcel that are too small to be one."""

from __future__ import annotations

import cc3d
import numpy as np

from ..images.geometry import bounding_box
from ..parcels import SIDES

#: A connected part of a parcel that is smaller is given to the parcels around it.
MIN_MM3 = 50.0
#: How often, since neighbours may be speckles themselves.
ROUNDS = 3
#: Larger than any label of a parcel.
RADIX = 4096
#: Voxels around one, diagonal ones included.
OFFSETS = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])


def remove_speckles(parcels: np.ndarray, voxel_mm3: float, min_mm3: float = MIN_MM3) -> np.ndarray:
    """Give each small part of a parcel to the parcel of its side that it touches most.

    A part without such a neighbour, a piece of cortex apart from the rest, keeps its parcel.

    Parameters
    ----------
    parcels : (x, y, z) int16 array
        An aparc+aseg map.
    voxel_mm3 : float
        Volume of a voxel.
    min_mm3 : float
        Smallest part that is kept.

    Returns
    -------
    (x, y, z) int16 array
        The same array; the cortex of each side does not change.
    """
    box = bounding_box(parcels >= min(first for _, first in SIDES.values()))
    if box is None:
        return parcels
    # One voxel around it, so that all voxels have neighbours.
    inner = np.pad(parcels[box], 1)
    for _ in range(ROUNDS):
        if not _absorb(inner, min_mm3 / voxel_mm3):
            break
    parcels[box] = inner[1:-1, 1:-1, 1:-1]
    return parcels


def _absorb(parcels: np.ndarray, min_voxels: float) -> bool:
    """Do one round, in place; return whether anything changed."""
    only = np.where(parcels >= min(first for _, first in SIDES.values()), parcels, 0)
    parts = cc3d.connected_components(only, connectivity=26)
    small = np.bincount(parts.ravel()) < min_voxels
    small[0] = False
    where = np.argwhere(small[parts])
    if not len(where):
        return False
    own = parts[tuple(where.T)].astype(np.int64)
    beside = tuple(np.moveaxis(where[:, None] + OFFSETS, -1, 0))
    number = only[beside]
    same_side = number // 1000 == (only[tuple(where.T)] // 1000)[:, None]
    usable = same_side & (number > 0) & ~small[parts[beside]]
    # Count the voxels of each parcel beside each part, and take the most frequent one.
    keys, counts = np.unique((own[:, None] * RADIX + number)[usable], return_counts=True)
    part, parcel = np.divmod(keys, RADIX)
    order = np.lexsort((parcel, counts, part))
    ends = order[np.flatnonzero(np.diff(part[order], append=-1))]
    new = dict(zip(part[ends].tolist(), parcel[ends].tolist(), strict=True))
    taken = np.array([new.get(part, 0) for part in own.tolist()])
    changed = taken > 0
    parcels[tuple(where[changed].T)] = taken[changed]
    return bool(changed.any())
