"""Clean, smooth and refine what the network has predicted, inside the brain's bounding box."""

from __future__ import annotations

import logging

from torch import Tensor

from ..images.geometry import nested_box
from ..models.card import ModelCard
from .original_spacing import own_steps
from .postprocess import Box, clean, smooth, supports
from .preprocess import Prepared
from .refine import refine_alone
from .soft_segmentation import SoftSegmentation

logger = logging.getLogger(__name__)


def sharpen(
    posteriors: Tensor,
    prepared: Prepared,
    region: Box,
    card: ModelCard,
    groups: tuple[int, ...],
    keep_prior: bool = False,
) -> tuple[Tensor, Box, list[Box], SoftSegmentation | None]:
    """Clean the network's posteriors, and refine them by the scan's intensities, in place.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) tensor
    prepared : Prepared
        The scan.
    region : tuple of slice
        Box of the posteriors in the network grid.
    card : ModelCard
        Card of the network; its ``intensity_weight`` is 0 if posteriors are not to be refined.
        They are smoothed if it predicts blocks of voxels.
    groups : (n_channels,) tuple of int
        Topology group of each channel; see :func:`.postprocess.clean`.
    keep_prior : bool
        Whether to return a copy of what is not refined yet.

    Returns
    -------
    posteriors : (n_channels, x', y', z') float32 tensor
        Inside the brain's bounding box.
    box : tuple of slice
        That box in the region; empty if there is no brain.
    boxes : list of boxes
        Where each channel has posteriors; see :func:`.postprocess.supports`.
    prior : SoftSegmentation or None
    """
    posteriors, box = clean(posteriors, groups)
    if box is None:
        logger.warning('no brain found in the scan: everything is background')
        box = (slice(0, 0),) * 3
    boxes = supports(posteriors)
    image, steps = prepared.image[region][box], prepared.steps
    if image.size:
        if card.network.sub_voxels > 1:
            posteriors = smooth(posteriors, boxes)
        if card.intensity_weight or keep_prior:
            steps = own_steps(steps, image, posteriors[0] < 0.5)
    prior = None
    if keep_prior:
        prior = SoftSegmentation.from_probabilities(
            posteriors,
            card.labels,
            prepared.grid,
            nested_box(box, region),
            steps * card.spacing_mm,
        )
    if image.size:
        posteriors = refine_alone(posteriors, image, steps, card, boxes)
    return posteriors, box, boxes, prior
