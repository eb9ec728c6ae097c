"""Segment the visits of one participant together, with their mean in common.

Each visit's posteriors, as the network predicts them, are mixed with the mean of all visits, on
the grid of the visit. All visits are treated alike, none is the baseline (compare Reuter et al.,
NeuroImage 61:1402, 2012).

The mean makes changes of volume less noisy and smaller by the same factor, its weight; it cannot
tell noise from change. Intensities do not refine these posteriors (:mod:`.refine`): they decide
voxel by voxel which structure it belongs to, from Gaussians fitted to each scan alone, and hardly
see a border that moves by a tenth of a voxel. On generated visits of four heads, volumes of the
network alone had less spread where nothing changes than refined ones, and followed changes better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import Grid, from_ras, orientation, spacing_mm, voxel_volume_mm3
from ..measure.agreement import AlignmentError
from ..models.card import ModelCard
from .combine import LEAST_OVERLAP
from .fold_lesions import fold_lesions
from .options import TEMPLATE_WEIGHT
from .postprocess import soft_volumes
from .register import Registration, register
from .register_intensities import Image
from .resample_posteriors import resample_labels
from .rigid_resample import inside, sample
from .soft_segmentation import SoftSegmentation


def register_visits(
    priors: Sequence[SoftSegmentation], names: Sequence[str] = (), images: Sequence[Image] = ()
) -> Registration:
    """Register all scans of a participant with the space halfway between them.

    Parameters
    ----------
    priors : sequence of SoftSegmentation
        The network's posteriors of each scan.
    names : sequence of str, optional
        Names of the scans for messages.
    images : sequence of (array, array), optional
        See :func:`.register.register`.

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
    found = register(priors, images)
    worst = int(np.argmin(found.overlaps))
    if found.overlaps[worst] < LEAST_OVERLAP:
        raise AlignmentError(
            f'{names[worst] if names else f"scan {worst + 1}"}: overlaps by '
            f'{found.overlaps[worst]:.2f} with the others, less than {LEAST_OVERLAP}: another '
            'head, or a failed segmentation; look at it and leave it out'
        )
    return found


def segment_visit(
    grid: Grid,
    priors: Sequence[SoftSegmentation],
    visits: Sequence[str],
    registration: Registration,
    own: int,
    card: ModelCard,
    labels: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Segment one scan together with all visits.

    Parameters
    ----------
    grid : Grid
        Of the scan.
    priors, visits, registration, own
        See :func:`mixed_with_mean`.
    card : ModelCard
        Card of the network.
    labels : tuple of int
        Labels wanted: those of the network, or without lesions.

    Returns
    -------
    labels : (i, j, k) int16 array
        FreeSurfer numbers on the scan's grid.
    volumes : (n_channels,) float64 array
        Soft volumes in mm^3, background first; NaN for unknown ones.
    """
    prior = priors[own]
    posteriors = mixed_with_mean(priors, visits, registration, own)
    if len(labels) < len(card.labels):
        posteriors = fold_lesions(posteriors, card.labels)
    scan_grid = grid.in_ras()
    steps = spacing_mm(scan_grid.affine) / card.spacing_mm
    shapes = prior.grid.shape, scan_grid.shape
    found, _ = resample_labels(posteriors, prior.box, *shapes, steps, labels)
    volumes = soft_volumes(
        posteriors,
        int(np.prod(prior.grid.shape)),
        voxel_volume_mm3(prior.grid.affine),
        card.unknown_channels,
    )
    return np.ascontiguousarray(from_ras(found, orientation(grid.affine))), volumes


@torch.inference_mode()
def mixed_with_mean(
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
        Number of the scan.
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
