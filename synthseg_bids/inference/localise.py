"""Where the brain is in a scan, and the crop around it that the network sees.

Networks that were trained on crops see the brain in the same field of view as in training: a first
pass over the whole scan finds it, a second one over the crop around it corrects its place.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..images.background import EMPTY_SHARE, filled_box
from ..models.card import ModelCard
from .engine import Engine
from .forward import predict
from .memory_plan import Plan
from .postprocess import Box, largest_body

#: How often the brain is looked for: in the whole scan, then in the crop around what was found,
#: which the network knows better.
LOCALISATIONS = 2
#: Foreground probability above which a voxel counts as brain when looking for the brain.
FIND_THRESHOLD = 0.5
#: Room left around the brain when cropping to it, and the part of it that may be stray voxels.
MARGIN_MM = 4.0
TRIM = 0.005
#: Empty borders are cut off up to so many voxels from what is not empty.
EMPTY_MARGIN = 8


def region_to_segment(
    engine: Engine,
    image: np.ndarray,
    card: ModelCard,
    autocrop: bool = True,
    plan: Plan | None = None,
) -> Box:
    """Return the part of a scan that the network is to see.

    Parameters
    ----------
    engine : Engine
    image : (x, y, z) float32 array
        On the network grid.
    card : ModelCard
    autocrop : bool
        Whether to look for the brain, if the network was trained on crops.
    plan : Plan, optional
        See :func:`.forward.predict`.

    Returns
    -------
    tuple of slice
    """
    region: Box = filled_box(image, EMPTY_MARGIN)
    # What is empty costs nothing; small margins are left as they are.
    if image[region].size > EMPTY_SHARE * image.size:
        region = tuple(slice(0, n) for n in image.shape)
    for _ in range(LOCALISATIONS if autocrop and card.crop_mm else 0):
        closer = _closer(engine, image, region, card, plan)
        if closer == region:
            break
        region = closer
    return region


def _closer(
    engine: Engine, image: np.ndarray, region: Box, card: ModelCard, plan: Plan | None
) -> Box:
    """Return the crop around the brain that the network sees in a region of the image."""
    assert card.crop_mm is not None
    grid = (image.shape, card.crop_mm, card.spacing_mm, card.network.size_multiple)
    # A crop around nothing is the smallest; if that is the whole region, spare the pass.
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
    """Return the box that holds nearly all of the largest body of brain.

    Parameters
    ----------
    outside : (x, y, z) float32 tensor
        Probability of background, or of the fluid around the brain.

    Returns
    -------
    tuple of slice, or None
        Stray voxels, up to 0.5 % at each side, may lie outside. None where no voxel is more
        likely brain than not.
    """
    body = largest_body((outside < 1 - FIND_THRESHOLD).numpy())
    if not body.any():
        return None
    box = []
    for axis in range(3):
        profile = body.sum(tuple(a for a in range(3) if a != axis)).cumsum()
        first, last = np.searchsorted(profile, [TRIM * profile[-1], (1 - TRIM) * profile[-1]])
        box.append(slice(int(first), int(last) + 1))
    return tuple(box)


def crop_box(
    brain: Box, shape: tuple[int, ...], crop_mm: tuple[float, ...], spacing: float, multiple: int
) -> Box:
    """Return the part of the network grid that shows the brain as in training.

    Parameters
    ----------
    brain : tuple of slice
        From :func:`find_brain`.
    shape : tuple of int
        Of the network grid.
    crop_mm : tuple of float
        Field of view that the network was trained on.
    spacing : float
        Of the network grid, in mm.
    multiple : int
        Sides are rounded up to multiples of it where the grid is large enough.

    Returns
    -------
    tuple of slice
        Inside the grid, centred on the brain where the grid allows, with a margin on all sides.

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
