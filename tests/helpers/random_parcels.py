"""Label maps with parcels of the cortex."""

from __future__ import annotations

import numpy as np

from synthseg_bids.parcels import CORTEX, parcel_labels


def with_parcels(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace each cortex voxel by a parcel of its side, at random."""
    parcels = labels.astype(np.int16)
    for cortex in CORTEX:
        where = labels == cortex
        numbers = [label.index for label in parcel_labels() if label.target == cortex]
        parcels[where] = rng.choice(numbers, where.sum())
    return parcels
