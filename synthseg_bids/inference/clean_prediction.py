"""Clean and smooth what the network has predicted, inside the brain's bounding box."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..images.geometry import nested_box
from ..models.card import ModelCard
from .network_pass import NetworkPass
from .original_spacing import own_steps
from .postprocess import Box, clean, smooth, supports
from .refine import refine_alone
from .soft_segmentation import SoftSegmentation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cleaned:
    """The network's posteriors inside the brain's bounding box, not refined.

    Attributes
    ----------
    posteriors : (n_channels, x, y, z) float32 tensor
    inner : tuple of slice
        The bounding box in the box of the prediction; empty if there is no brain.
    boxes : list of boxes
        Where each channel has posteriors; see :func:`.postprocess.supports`.
    image : (x, y, z) float32 array
        The scan inside that box.
    steps : (3,) array
        Spacing of the scan's own voxels in those of the network grid; see
        :func:`.original_spacing.own_steps`.
    """

    posteriors: Tensor
    inner: Box
    boxes: list[Box]
    image: np.ndarray
    steps: np.ndarray

    def prior(self, seen: NetworkPass, card: ModelCard) -> SoftSegmentation:
        """Copy the posteriors, for a combination with other scans."""
        return SoftSegmentation.from_probabilities(
            self.posteriors,
            card.labels,
            seen.prepared.grid,
            nested_box(self.inner, seen.box),
            self.steps * card.spacing_mm,
        )

    def refined(self, card: ModelCard) -> Tensor:
        """Refine the posteriors by the scan's intensities, in place."""
        if not self.image.size:
            return self.posteriors
        return refine_alone(self.posteriors, self.image, self.steps, card, self.boxes)


def clean_prediction(seen: NetworkPass, card: ModelCard) -> Cleaned:
    """Keep the largest component of each group of structures, and smooth borders, in place.

    Parameters
    ----------
    seen : NetworkPass
    card : ModelCard
        Card of the network; posteriors are smoothed if it predicts blocks of voxels.

    Returns
    -------
    Cleaned
    """
    posteriors, inner = clean(seen.prediction.posteriors, card.topology_groups)
    if inner is None:
        logger.warning('no brain found in the scan: everything is background')
        inner = (slice(0, 0),) * 3
    boxes = supports(posteriors)
    image, steps = seen.prepared.image[seen.box][inner], seen.prepared.steps
    if image.size:
        if card.network.sub_voxels > 1:
            posteriors = smooth(posteriors, boxes)
        steps = own_steps(steps, image, posteriors[0] < 0.5)
    return Cleaned(posteriors, inner, boxes, image, steps)
