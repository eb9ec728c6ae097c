"""Segment the visits of one participant together.

The posteriors of a scan are averaged with those of all visits, on the grid of the scan. All visits
are treated alike, none is the baseline (compare Reuter et al., NeuroImage 61:1402, 2012). Where
visits show the same contrast, the mean follows what has changed in the head between them: their
intensities, deformed onto each other (:mod:`.deform_visits`), see a border that moves by a tenth
of a voxel, which two segmentations do not. The intensities of each scan refine its posteriors
(:mod:`.refine`) before they are averaged, not after: every mean contains all refinements, so that
their errors are common to all visits and look like no change.

A scan whose contrast no other visit has is mixed with the mean of all, as they are. That makes
changes of volume less noisy and smaller by the same factor, the weight of the mean. Its posteriors
are those of the network alone: Gaussians fitted to each scan make differences noisier.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import Grid, widen_box
from ..measure.agreement import AlignmentError
from ..models.card import ModelCard
from .combine import LEAST_OVERLAP, Contrast
from .deform_visits import SPACING_MM, between_scans, displacements_of
from .fold_lesions import fold_lesions
from .label_scan import ScanLabels, label_scan
from .match_intensities import UnlikeError
from .options import TEMPLATE_WEIGHT
from .parcels import Parcellator
from .postprocess import NOWHERE, Box, supports
from .preprocess import prepare
from .refine import refine_alone
from .register import Registration, grid_halfway, register
from .register_intensities import Image
from .rigid_resample import inside, reached, sample, sample_at, voxel_places
from .soft_segmentation import SoftSegmentation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Changes:
    """What has changed in the head, for scans of contrasts that other visits have, too.

    Attributes
    ----------
    grid : Grid
        Grid in the space halfway.
    groups : tuple of tuple of int
        Numbers of the scans of each such contrast.
    fields : dict of int to (3, x, y, z) tensor
        Displacement of each of these scans in voxels of the grid, see
        :func:`.deform_visits.displacements`.
    """

    grid: Grid
    groups: tuple[tuple[int, ...], ...] = ()
    fields: Mapping[int, Tensor] = field(default_factory=dict)

    def alike(self, number: int) -> tuple[int, ...]:
        """Return the scans that a scan was compared with, and itself; nothing without any."""
        return next((group for group in self.groups if number in group), ())


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


def compare_visits(
    priors: Sequence[SoftSegmentation],
    images: Sequence[Image],
    visits: Sequence[str],
    contrasts: Sequence[str],
    registration: Registration,
) -> Changes:
    """Find what has changed in the head between scans of the same contrast.

    Parameters
    ----------
    priors, images
        See :func:`register_visits`.
    visits, contrasts : sequence of str
        Visit and contrast of each scan. Scans that look unlike although they should not are not
        compared.
    registration : Registration
        Registration of the scans, which come in the same order.

    Returns
    -------
    Changes
    """
    grid = grid_halfway(priors, registration.to_scans, SPACING_MM)
    groups: list[tuple[int, ...]] = []
    fields: dict[int, Tensor] = {}
    for contrast in dict.fromkeys(contrasts):
        numbers = [number for number, name in enumerate(contrasts) if name == contrast]
        if len({visits[number] for number in numbers}) < 2:
            continue
        chosen = [priors[n] for n in numbers], [images[n] for n in numbers]
        moves = [registration.to_scans[n] for n in numbers]
        try:
            found = displacements_of(*chosen, moves, grid)
        except UnlikeError as error:
            logger.warning('images of the contrast %s are not compared: %s', contrast, error)
            continue
        groups.append((*numbers,))
        fields |= dict(zip(numbers, found, strict=True))
    return Changes(grid, (*groups,), fields)


@torch.inference_mode()
def refine_compared(
    scans: Sequence[Contrast], changes: Changes, card: ModelCard
) -> list[SoftSegmentation]:
    """Refine the posteriors of scans that were compared by the intensities of each.

    Parameters
    ----------
    scans : sequence of Contrast
        The scans without empty borders, as they were segmented.
    changes : Changes
        Between scans of the same contrast. The posteriors of others stay as they are.
    card : ModelCard
        Card of the network; with an ``intensity_weight`` of 0 nothing is refined.

    Returns
    -------
    list of SoftSegmentation
        The posteriors of each scan.
    """
    found = [scan.prior for scan in scans]
    for number in changes.fields if card.intensity_weight else ():
        scan, prior = scans[number], found[number]
        image = prepare(scan.intensities, scan.affine, card.spacing_mm).image[prior.box]
        posteriors, steps = prior.probabilities(), prior.steps_mm / card.spacing_mm
        refined = refine_alone(posteriors, image, steps, card, supports(posteriors))
        found[number] = SoftSegmentation.from_probabilities(
            refined, prior.labels, prior.grid, prior.box, prior.steps_mm
        )
    return found


def segment_visit(
    grid: Grid,
    priors: Sequence[SoftSegmentation],
    visits: Sequence[str],
    registration: Registration,
    changes: Changes,
    own: int,
    card: ModelCard,
    labels: tuple[int, ...],
    parcellator: Parcellator | None = None,
) -> ScanLabels:
    """Segment one scan together with all visits.

    Parameters
    ----------
    grid : Grid
        Grid of the scan. Where empty borders were cut off before it was segmented, it is the grid
        of what was left.
    priors, visits, registration, changes, own
        See :func:`joint_posteriors`.
    card : ModelCard
        Card of the network.
    labels : tuple of int
        Labels wanted: those of the network, or without lesions.
    parcellator : Parcellator, optional
        Names the parcels of the cortex.

    Returns
    -------
    ScanLabels
    """
    prior = priors[own]
    posteriors = joint_posteriors(priors, visits, registration, changes, own)
    if len(labels) < len(card.labels):
        posteriors = fold_lesions(posteriors, card.labels)
    return label_scan(
        posteriors,
        prior.box,
        prior.grid,
        grid,
        labels,
        unknown=card.unknown_channels,
        parcellator=parcellator,
    )


@torch.inference_mode()
def joint_posteriors(
    priors: Sequence[SoftSegmentation],
    visits: Sequence[str],
    registration: Registration,
    changes: Changes,
    own: int,
    weight: float = TEMPLATE_WEIGHT,
) -> Tensor:
    """Return the posteriors of a scan by all visits.

    Parameters
    ----------
    priors : sequence of SoftSegmentation
        The posteriors of each scan, from :func:`refine_compared`.
    visits : sequence of str
        Visit of each scan. Visits count the same, however many scans they have.
    registration : Registration
        Registration of the scans, which come in the same order.
    changes : Changes
        Between scans of the same contrast. Those of the scan, if there are any, decide alone.
    own : int
        Number of the scan.
    weight : float
        Share of the mean where no other visit has the contrast of the scan: 0 gives its own
        posteriors.

    Returns
    -------
    (n_channels, x, y, z) float32 tensor
        On the grid of the scan, inside its box; sums to 1.
    """
    alike = changes.alike(own)
    mean = _mean(priors, visits, registration, changes, own, alike or range(len(priors)))
    if alike:
        return mean
    return mean.mul_(weight).add_(priors[own].posteriors, alpha=(1 - weight) / 255)


def _mean(
    priors: Sequence[SoftSegmentation],
    visits: Sequence[str],
    registration: Registration,
    changes: Changes,
    own: int,
    numbers: Collection[int],
) -> Tensor:
    """Average the posteriors of scans on the grid of one of them, following changes."""
    scans_of = Counter(visits[number] for number in numbers)
    target = priors[own]
    shape = tuple(target.posteriors.shape[1:])
    mean, total = torch.zeros(target.posteriors.shape), torch.zeros(shape)
    for number in numbers:
        share, one = 1 / scans_of[visits[number]], priors[number]
        if number == own:
            mean.add_(target.posteriors, alpha=share / 255)
            total += share
            continue
        to_other = registration.between(own, number) @ target.affine
        seen = inside(np.linalg.inv(one.grid.affine) @ to_other, shape, one.grid.shape)
        total.add_(seen, alpha=share)
        matrix = np.linalg.inv(one.affine) @ to_other
        moved = _moved(priors, registration, changes, own, number)
        reach = 0
        if moved is not None:
            per_voxel = np.abs(np.linalg.inv(matrix[:3, :3])).sum()
            reach = min(int(np.ceil(float(moved.abs().max()) * per_voxel)), max(shape))
        # Background, which is not zero outside of the box, is what the others leave.
        for channel, volume in zip(mean[1:], one.posteriors[1:], strict=True):
            if moved is None:
                box, part = sample(volume, matrix, shape)
            else:
                box, part = _sample_moved(volume, matrix, moved, reach)
            channel[box].add_(part, alpha=share / 255)
    mean /= total
    mean[0] = 0
    mean[0] = 1 - mean.sum(0)
    return mean


def _moved(
    priors: Sequence[SoftSegmentation],
    registration: Registration,
    changes: Changes,
    own: int,
    other: int,
) -> Tensor | None:
    """Return by how much the points of one scan are displaced in another one by changes.

    Returns
    -------
    (3, x, y, z) tensor or None
        Displacement on the grid of the one scan, in voxels of the other one; None if they were
        not compared.
    """
    if own not in changes.fields or other not in changes.fields:
        return None
    target = priors[own]
    to_halfway = np.linalg.inv(registration.to_scans[own]) @ target.affine
    found = between_scans(
        changes.fields[own],
        changes.fields[other],
        np.linalg.inv(changes.grid.affine) @ to_halfway,
        tuple(target.posteriors.shape[1:]),
    )
    to_other = registration.to_scans[other] @ changes.grid.affine
    turn = np.linalg.inv(priors[other].affine) @ to_other
    return torch.einsum('ij,jxyz->ixyz', torch.from_numpy(turn[:3, :3]).float(), found)


def _sample_moved(
    volume: Tensor, matrix: np.ndarray, moved: Tensor, reach: int
) -> tuple[Box, Tensor]:
    """Interpolate a volume on another grid, as :func:`.rigid_resample.sample` does.

    Parameters
    ----------
    volume : (i, j, k) tensor
    matrix : (4, 4) array
        Maps voxel indices of the other grid to those of the volume.
    moved : (3, x, y, z) tensor
        Displacement on the other grid, in voxels of the volume.
    reach : int
        Largest displacement in voxels of the other grid.
    """
    shape = tuple(moved.shape[1:])
    boxes = reached(volume, matrix, shape)
    if boxes is None:
        return NOWHERE, torch.zeros(0, 0, 0)
    support, box = boxes[0], widen_box(boxes[1], reach, shape)
    starts = torch.tensor([part.start for part in support]).view(3, 1, 1, 1)
    places = voxel_places(matrix, box) + moved[(slice(None), *box)] - starts
    return box, sample_at(volume[support].float(), places)
