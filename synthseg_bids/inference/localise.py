"""Localise the brain in a scan, and crop the scan around it.

Networks trained on crops get the field of view of their training: a first pass over the whole scan
finds the brain, a second one over the crop around it corrects its position.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..images.background import small_filled_box
from ..models.card import ModelCard
from .engine import Engine
from .forward import predict
from .memory_plan import Plan
from .postprocess import Box, largest_component
from .preprocess import EMPTY_MARGIN

#: Number of localisations: in the whole scan, then in the crop, which is more like training.
LOCALISATIONS = 2
#: Probability above which a voxel counts as brain.
FIND_THRESHOLD = 0.5
#: Margin around the brain in a crop, and fraction of its voxels that is trimmed at each side.
MARGIN_MM = 4.0
TRIM = 0.005


def region_to_segment(
    engine: Engine,
    image: np.ndarray,
    card: ModelCard,
    autocrop: bool = True,
    plan: Plan | None = None,
) -> Box:
    """Return the region of a scan for the network.

    Parameters
    ----------
    engine : Engine
    image : (x, y, z) float32 array
        On the network grid.
    card : ModelCard
    autocrop : bool
        Whether to crop to the brain, if the network was trained on crops.
    plan : Plan, optional
        See :func:`.forward.predict`.

    Returns
    -------
    tuple of slice
    """
    whole = tuple(slice(0, n) for n in image.shape)
    region: Box = small_filled_box(image, EMPTY_MARGIN) or whole
    for _ in range(LOCALISATIONS if autocrop and card.crop_mm else 0):
        closer = _closer(engine, image, region, card, plan)
        if closer == region:
            break
        region = closer
    return region


def _closer(
    engine: Engine, image: np.ndarray, region: Box, card: ModelCard, plan: Plan | None
) -> Box:
    """Return the crop around the brain that the network finds in a region of the image."""
    assert card.crop_mm is not None
    grid = (image.shape, card.crop_mm, card.spacing_mm, card.network.size_multiple)
    # If even the smallest crop, around nothing, is the whole image, skip the pass.
    smallest = crop_box(tuple(slice(n // 2, n // 2) for n in image.shape), *grid)
    if all(s == slice(0, n) for s, n in zip(smallest, image.shape, strict=True)):
        return region
    found = predict(engine, image[region], plan=plan, channels=card.outside_channels)
    brain = find_brain(found.posteriors.sum(0, dtype=torch.float32))
    if brain is None:
        return region
    placed = tuple(
        slice(r.start + b.start, r.start + b.stop) for r, b in zip(region, brain, strict=True)
    )
    return crop_box(placed, *grid)


def find_brain(outside: Tensor) -> Box | None:
    """Return a box around nearly all of the brain's largest connected component.

    Parameters
    ----------
    outside : (x, y, z) float32 tensor
        Probability of background or of the CSF around the brain.

    Returns
    -------
    tuple of slice, or None
        Up to 0.5 % of the voxels at each side may lie outside. None if no voxel is more likely
        brain than not.
    """
    brain = largest_component((outside < 1 - FIND_THRESHOLD).numpy())
    if not brain.any():
        return None
    box = []
    for axis in range(3):
        profile = brain.sum(tuple(a for a in range(3) if a != axis)).cumsum()
        first, last = np.searchsorted(profile, [TRIM * profile[-1], (1 - TRIM) * profile[-1]])
        box.append(slice(int(first), int(last) + 1))
    return tuple(box)


def crop_box(
    brain: Box, shape: tuple[int, ...], crop_mm: tuple[float, ...], spacing: float, multiple: int
) -> Box:
    """Return the crop of the network grid that shows the brain as in training.

    Parameters
    ----------
    brain : tuple of slice
        From :func:`find_brain`.
    shape : tuple of int
        Shape of the network grid.
    crop_mm : tuple of float
        Field of view that the network was trained on.
    spacing : float
        Voxel size of the network grid, in mm.
    multiple : int
        Sides are rounded up to multiples of it if the grid is large enough.

    Returns
    -------
    tuple of slice
        Centred on the brain as far as the grid allows, with a margin on all sides.

    Examples
    --------
    >>> crop_box((slice(40, 50),), (100,), (32.0,), 1.0, 16)
    (slice(29, 61, None),)
    """
    margin = int(np.ceil(MARGIN_MM / spacing))
    box = []
    for found, n, extent in zip(brain, shape, crop_mm, strict=True):
        needed = max(found.stop - found.start + 2 * margin, round(extent / spacing))
        size = min(-(-needed // multiple) * multiple, n)
        start = min(max((found.start + found.stop - size) // 2, 0), n - size)
        box.append(slice(start, start + size))
    return tuple(box)
