"""Localise the brain in a scan, and crop the scan around it.

Networks trained on crops get the field of view of their training. The brain is found in the scan
at half its resolution, which networks trained on heads of any size and resolution segment well
enough; what the network then finds in the crop shows whether the crop was right.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..images.background import small_filled_box
from ..images.geometry import nested_box
from ..models.card import ModelCard
from .engine import Engine
from .forward import Prediction, predict
from .memory_plan import Plan
from .postprocess import Box, largest_component
from .preprocess import EMPTY_MARGIN

#: Voxels of the network grid, along each axis, that are averaged to one before the brain is
#: looked for; the second pass only takes place if the first one found no brain.
POOLING = (2, 1)
#: The crop is corrected if the brain found in it suggests one whose borders are this far away.
TOLERANCE_MM = 4.0
#: Only every second voxel along each axis is looked at for that.
SUBSAMPLING = 2
#: Probability above which a voxel counts as brain.
FIND_THRESHOLD = 0.5
#: Margin around the brain in a crop, and fraction of its voxels that is trimmed at each side.
MARGIN_MM = 4.0
TRIM = 0.005


def predict_brain(
    engine: Engine,
    plan: Plan | None,
    image: np.ndarray,
    card: ModelCard,
    mirror: np.ndarray | None,
    autocrop: bool = True,
) -> tuple[Box, Prediction]:
    """Find the brain and compute the posteriors around it.

    Parameters
    ----------
    engine, plan, mirror
        See :func:`.forward.predict`.
    image, card, autocrop
        See :func:`region_to_segment`.

    Returns
    -------
    region : tuple of slice
        Segmented region of the network grid.
    prediction : Prediction
    """
    region = region_to_segment(engine, image, card, autocrop, plan)
    prediction = predict(engine, image[region], mirror, plan)
    better = corrected_region(prediction, region, image.shape, card) if autocrop else None
    if better is None:
        return region, prediction
    del prediction  # as large as what comes now
    return better, predict(engine, image[better], mirror, plan)


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
    # If even the smallest crop, around nothing, is the whole image, skip the passes.
    nothing = tuple(slice(n // 2, n // 2) for n in image.shape)
    if not (autocrop and card.crop_mm) or _crop(nothing, image.shape, card) == whole:
        return region
    for factor in POOLING:
        pooled = _pool(image[region], factor)
        found = predict(engine, pooled, plan=plan, channels=card.outside_channels)
        brain = find_brain(found.posteriors.sum(0, dtype=torch.float32))
        if brain is not None:
            seen = _magnify(found.box, factor, region)
            return _crop(_magnify(brain, factor, seen), image.shape, card)
    return region


def corrected_region(
    prediction: Prediction, region: Box, shape: tuple[int, ...], card: ModelCard
) -> Box | None:
    """Return a better region to segment; None if the brain is where it was looked for.

    Parameters
    ----------
    prediction : Prediction
        Of a region to segment.
    region : tuple of slice
        From :func:`region_to_segment`.
    shape : tuple of int
        Shape of the network grid.
    card : ModelCard

    Returns
    -------
    tuple of slice or None
        The crop that the brain in the posteriors suggests, if one of its borders is more than
        `TOLERANCE_MM` away; None for networks that are not trained on crops.
    """
    every = slice(None, None, SUBSAMPLING)
    if not card.crop_mm:
        return None
    posteriors = prediction.posteriors
    outside = sum(posteriors[channel, every, every, every] for channel in card.outside_channels)
    brain = find_brain(torch.as_tensor(outside, dtype=torch.float32))
    if brain is None:
        return None
    seen = nested_box(prediction.box, region)
    closer = _crop(_magnify(brain, SUBSAMPLING, seen), shape, card)
    apart = max(
        max(abs(new.start - old.start), abs(new.stop - old.stop))
        for new, old in zip(closer, region, strict=True)
    )
    return closer if apart * card.spacing_mm > TOLERANCE_MM else None


def _pool(image: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of voxels; those at the end may be smaller."""
    if factor == 1:
        return image
    volume = torch.from_numpy(np.ascontiguousarray(image))
    return functional.avg_pool3d(volume[None, None], factor, ceil_mode=True)[0, 0].numpy()


def _magnify(box: Box, factor: int, region: Box) -> Box:
    """Return where a box in a pooled region lies in the image."""
    return tuple(
        slice(r.start + factor * b.start, min(r.start + factor * b.stop, r.stop))
        for r, b in zip(region, box, strict=True)
    )


def _crop(brain: Box, shape: tuple[int, ...], card: ModelCard) -> Box:
    """Return the crop around the brain for a network that was trained on crops."""
    assert card.crop_mm is not None
    return crop_box(brain, shape, card.crop_mm, card.spacing_mm, card.network.size_multiple)


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
