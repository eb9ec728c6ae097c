"""Segment the visits of one participant together, with their mean as a common prior.

Each visit's posteriors, as the network predicts them, are mixed with the mean of all visits; the
intensities of the visit's own scan then decide, as for a single scan (:mod:`.refine`). What the
network makes of another position, contrast or noise affects all visits alike and cancels in their
difference, whereas a border that has moved shows in the intensities. All visits are treated
alike, none is the baseline (compare Reuter et al., NeuroImage 61:1402, 2012).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import from_ras, voxel_volume_mm3
from ..measure.agreement import AlignmentError
from ..models.card import ModelCard
from .combine import LEAST_OVERLAP
from .fold_lesions import fold_lesions
from .options import TEMPLATE_WEIGHT
from .postprocess import resample_labels, soft_volumes
from .preprocess import prepare_scan
from .refine import refine_alone
from .register import Registration, register
from .rigid_resample import inside, sample
from .soft_segmentation import SoftSegmentation


def register_visits(priors: Sequence[SoftSegmentation]) -> Registration:
    """Register all scans of a participant with the space halfway between them.

    Parameters
    ----------
    priors : sequence of SoftSegmentation
        The network's posteriors of each scan.

    Returns
    -------
    Registration

    Raises
    ------
    AlignmentError
        If they cannot be registered, or one of them shows another head.
    """
    if len({one.labels for one in priors}) > 1:
        raise AlignmentError('the visits were segmented with different labels; use one model')
    found = register(priors)
    worst = int(np.argmin(found.overlaps))
    if found.overlaps[worst] < LEAST_OVERLAP:
        raise AlignmentError(
            f'scan {worst + 1} of {len(priors)} overlaps by {found.overlaps[worst]:.2f} with the '
            f'others, less than {LEAST_OVERLAP}: another head, or a failed segmentation; look at '
            'it and leave it out'
        )
    return found


def segment_visit(
    data: np.ndarray,
    affine: np.ndarray,
    priors: Sequence[SoftSegmentation],
    visits: Sequence[str],
    registration: Registration,
    own: int,
    card: ModelCard,
    labels: tuple[int, ...],
    ct: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Segment one scan with the common prior of all visits.

    Parameters
    ----------
    data : (i, j, k) array
        The scan.
    affine : (4, 4) array
    priors, visits, registration, own
        See :func:`common_prior`.
    card : ModelCard
        Card of the network.
    labels : tuple of int
        Labels wanted: those of the network, or without lesions.
    ct : bool, optional
        See :func:`~synthseg_bids.inference.preprocess.prepare_scan`.

    Returns
    -------
    labels : (i, j, k) int16 array
        FreeSurfer numbers on the scan's grid.
    volumes : (n_channels,) float64 array
        Soft volumes in mm^3, background first; NaN for unknown ones.
    """
    prepared, _ = prepare_scan(data, affine, card.spacing_mm, ct)
    box, steps = priors[own].box, priors[own].steps_mm / card.spacing_mm
    posteriors = common_prior(priors, visits, registration, own)
    posteriors = refine_alone(posteriors, prepared.image[box], steps, card)
    if len(labels) < len(card.labels):
        posteriors = fold_lesions(posteriors, card.labels)
    shapes = prepared.image.shape, prepared.scan_grid.shape
    found, _ = resample_labels(posteriors, box, *shapes, prepared.steps, labels)
    voxel_mm3 = voxel_volume_mm3(prepared.grid.affine)
    volumes = soft_volumes(posteriors, prepared.image.size, voxel_mm3, card.unknown_channels)
    return np.ascontiguousarray(from_ras(found, prepared.orient)), volumes


@torch.inference_mode()
def common_prior(
    segmentations: Sequence[SoftSegmentation],
    visits: Sequence[str],
    registration: Registration,
    own: int,
    weight: float = TEMPLATE_WEIGHT,
) -> Tensor:
    """Mix the posteriors of a scan with the mean posteriors of all visits.

    Parameters
    ----------
    segmentations : sequence of SoftSegmentation
        The network's posteriors of each scan, not refined by its intensities.
    visits : sequence of str
        Visit of each scan. Visits count the same, however many scans they have.
    registration : Registration
        Of the scans, in the same order.
    own : int
        Which scan the prior is for.
    weight : float
        Share of the mean: 0 gives the scan's own posteriors.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        On the grid of the scan, inside its box; sums to 1.
    """
    scans_of = Counter(visits)
    target = segmentations[own]
    shape = tuple(target.posteriors.shape[1:])
    mean = torch.zeros(target.posteriors.shape)
    total = torch.zeros(shape)
    for number, (one, visit) in enumerate(zip(segmentations, visits, strict=True)):
        share = 1 / scans_of[visit]
        if number == own:
            mean.add_(target.posteriors, alpha=share / 255)
            total += share
            continue
        to_other = registration.between(own, number) @ target.affine
        total.add_(
            inside(np.linalg.inv(one.grid.affine) @ to_other, shape, one.grid.shape), alpha=share
        )
        matrix = np.linalg.inv(one.affine) @ to_other
        # Background, which is not zero outside of the box, is what the others leave.
        for channel, volume in zip(mean[1:], one.posteriors[1:], strict=True):
            box, part = sample(volume, matrix, shape)
            channel[box].add_(part, alpha=share / 255)
    mean /= total
    mean[0] = 0
    mean[0] = 1 - mean.sum(0)
    return mean.mul_(weight).add_(target.posteriors, alpha=(1 - weight) / 255)
