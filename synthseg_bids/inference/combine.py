"""Segment all scans of a session together.

The network's posteriors of each scan are brought to one grid halfway between all scans
(:mod:`.register`) and pooled; then the intensities of all scans together refine them, as SAMSEG
does with several contrasts (Puonti et al., NeuroImage 143:235, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..errors import InputImageError
from ..images.ct import CT_RANGE
from ..images.geometry import Grid, spacing_mm
from ..labels import mirror_channels
from ..measure.agreement import AlignmentError
from ..models.card import ModelCard
from .fold_lesions import fold_lesions
from .label_scan import ScanLabels, label_scan
from .label_weights import label_weights
from .original_spacing import independence
from .parcels import Parcellator
from .postprocess import everywhere
from .refine import refine
from .register import Registration, register
from .rigid_resample import inside, sample, sample_image
from .slices import acquired_slices
from .soft_segmentation import SoftSegmentation

#: Spacing of the grid halfway.
COMMON_MM = 1.0
#: Posteriors count as this at least: what one scan does not know does not overrule the others.
FLOOR = 1e-3
#: How much more the intensities of coarse voxels count than in one scan, since slices in other
#: planes show the same place anew: up to those of a scan of 1 mm, which count no more than alone.
#: Chosen on generated sessions of heads of the training, with slices of 1, 3 and 5 mm.
SHOWN_ANEW = 2.0
#: Scans that overlap less with the others are those of another head, or segmented wrongly.
LEAST_OVERLAP = 0.85


@dataclass(frozen=True, eq=False)
class Contrast:
    """One scan of a session.

    Attributes
    ----------
    data : (i, j, k) array
    affine : (4, 4) array
    prior : SoftSegmentation
        The network's posteriors, not refined.
    ct : bool
        Whether the intensities are Hounsfield units.
    """

    data: np.ndarray
    affine: np.ndarray
    prior: SoftSegmentation
    ct: bool = False

    @property
    def intensities(self) -> np.ndarray:
        """The data, without the Hounsfield units that show no difference within a brain."""
        return np.clip(self.data, *CT_RANGE) if self.ct else self.data


@dataclass(frozen=True, eq=False)
class Combination:
    """One segmentation of several scans.

    Attributes
    ----------
    used : tuple of int
        Numbers of the scans that were combined.
    refused : dict of int to str
        Why others were not.
    registration : Registration
        Registration of the scans that were combined.
    posteriors : (n_channels, x, y, z) float32 tensor
        On the grid; they sum to 1.
    grid : Grid
        Of 1 mm in the space halfway, around the brain.
    labels : tuple of int
        Label of each channel, background first.
    weights : (n_channels,) tensor
        Weights of the labels; see :func:`.label_weights.label_weights`.
    """

    used: tuple[int, ...]
    refused: dict[int, str]
    registration: Registration
    posteriors: Tensor
    grid: Grid
    labels: tuple[int, ...]
    weights: Tensor

    def on_common_grid(self, parcellator: Parcellator | None = None) -> ScanLabels:
        """Return the segmentation on the grid halfway; see :meth:`on_scan`."""
        box = everywhere(self.posteriors)[0]
        grids = self.grid, self.grid
        return label_scan(
            self.posteriors, box, *grids, self.labels, self.weights, parcellator=parcellator
        )

    def on_scan(
        self, number: int, grid: Grid, parcellator: Parcellator | None = None
    ) -> ScanLabels:
        """Return the segmentation on the grid of one of the scans.

        Parameters
        ----------
        number : int
            Of the scan among those used.
        grid : Grid
            Its grid.
        parcellator : Parcellator, optional
            Names the parcels of the cortex.

        Returns
        -------
        ScanLabels
            Its volumes are of what lies in the scan's field of view.
        """
        fine = grid.in_ras().resampled(COMMON_MM)
        box, posteriors = self.on_grid(number, fine)
        return label_scan(
            posteriors, box, fine, grid, self.labels, self.weights, parcellator=parcellator
        )

    def on_grid(self, number: int, grid: Grid) -> tuple[tuple[slice, ...], Tensor]:
        """Return the posteriors on a grid in the space of one of the scans.

        Parameters
        ----------
        number : int
            Of the scan among those used.
        grid : Grid

        Returns
        -------
        box : tuple of slice
            Box around the brain in that grid.
        posteriors : (n_channels, x', y', z') float32 tensor
            Inside that box; they sum to 1.
        """
        to_halfway = np.linalg.inv(self.registration.to_scans[number])
        matrix = np.linalg.inv(self.grid.affine) @ to_halfway @ grid.affine
        box, brain = sample(1 - self.posteriors[0], matrix, grid.shape)
        found = torch.zeros(len(self.posteriors), *brain.shape)
        found[0] = 1 - brain
        for channel, volume in zip(found[1:], self.posteriors[1:], strict=True):
            part, values = sample(volume, matrix, grid.shape)
            channel[_within(part, box)] = values[_within(box, part)]
        return box, found.div_(found.sum(0).clamp_(min=1e-6))


@torch.inference_mode()
def combine(
    scans: Sequence[Contrast], card: ModelCard, labels: Sequence[int] | None = None
) -> Combination:
    """Segment all scans of a session together.

    Parameters
    ----------
    scans : sequence of Contrast
        Two at least, of one head.
    card : ModelCard
        Card of the network that has made the posteriors.
    labels : sequence of int, optional
        Labels wanted: those of the network (default), or without lesions.

    Returns
    -------
    Combination

    Raises
    ------
    InputImageError
        If fewer than two of them show one head.
    """
    used, refused, registration = _registered(scans)
    chosen = [scans[number] for number in used]
    grid = _grid_around(chosen, registration)
    posteriors = _pooled(chosen, registration, grid)
    if card.intensity_weight:
        posteriors = _refined(posteriors, chosen, registration, grid, card)
    wanted = tuple(card.labels if labels is None else labels)
    if len(wanted) < len(card.labels):
        posteriors = fold_lesions(posteriors, card.labels)
    weights = label_weights(posteriors, wanted)
    return Combination(used, refused, registration, posteriors, grid, wanted, weights)


def _registered(
    scans: Sequence[Contrast],
) -> tuple[tuple[int, ...], dict[int, str], Registration]:
    """Register the scans, without those that do not fit the others."""
    used, refused = list(range(len(scans))), {}
    for number, scan in enumerate(scans):
        if not scan.prior.posteriors.numel():
            used.remove(number)
            refused[number] = 'no brain was found in it'
    while len(used) > 1:
        try:
            found = register(
                [scans[number].prior for number in used],
                [(scans[number].intensities, scans[number].affine) for number in used],
            )
        except AlignmentError as error:
            raise InputImageError(f'the scans cannot be registered: {error}') from error
        worst = int(np.argmin(found.overlaps))
        if found.overlaps[worst] >= LEAST_OVERLAP:
            return tuple(used), refused, found
        if len(used) == 2:
            raise InputImageError(
                f'the scans overlap by {found.overlaps[worst]:.2f} after registration, less than '
                f'{LEAST_OVERLAP}; look whether both show this head, and segment them alone'
            )
        refused[used.pop(worst)] = (
            f'overlaps the others by {found.overlaps[worst]:.2f} after registration, less than '
            f'{LEAST_OVERLAP}; look whether it shows this head'
        )
    raise InputImageError('fewer than two scans can be combined; segment them alone')


def _grid_around(scans: Sequence[Contrast], registration: Registration) -> Grid:
    """Return the grid of 1 mm in the space halfway that covers the brains of all scans."""
    corners = []
    for scan, move in zip(scans, registration.to_scans, strict=True):
        ends = product(*((-0.5, n - 0.5) for n in scan.prior.posteriors.shape[1:]))
        to_halfway = np.linalg.inv(move) @ scan.prior.affine
        corners += [(to_halfway @ [*end, 1.0])[:3] for end in ends]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    n = np.ceil((high - low) / COMMON_MM).astype(int)
    affine = np.diag([COMMON_MM] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - COMMON_MM * (n - 1) / 2
    return Grid(tuple(n.tolist()), affine)


def _pooled(scans: Sequence[Contrast], registration: Registration, grid: Grid) -> Tensor:
    """Return the weighted geometric mean of the posteriors of all scans.

    A scan weighs in where it shows something, by the root of the number of its voxels in a volume
    (:func:`.original_spacing.independence`).
    """
    n_channels = len(scans[0].prior.posteriors)
    logs = torch.zeros(n_channels, *grid.shape)
    total = torch.zeros(grid.shape)
    for scan, move in zip(scans, registration.to_scans, strict=True):
        prior = scan.prior
        halfway = move @ grid.affine
        seen = inside(np.linalg.inv(prior.grid.affine) @ halfway, grid.shape, prior.grid.shape)
        weight = seen * independence(prior.steps_mm / COMMON_MM)
        total += weight
        matrix = np.linalg.inv(prior.affine) @ halfway
        brain_box, brain = sample(255 - prior.posteriors[0], matrix, grid.shape)
        background = torch.ones(grid.shape)
        background[brain_box] -= brain / 255
        logs[0] += weight * background.clamp_(min=FLOOR).log_()
        for channel, volume in zip(logs[1:], prior.posteriors[1:], strict=True):
            box, values = sample(volume, matrix, grid.shape)
            # Relative to the floor, which all channels have everywhere.
            channel[box] += weight[box] * (values / (255 * FLOOR)).clamp_(min=1).log_()
    total.clamp_(min=1e-6)
    logs[0].div_(total).exp_()
    for channel in logs[1:]:
        channel.div_(total).exp_().sub_(1).mul_(FLOOR)
    logs[0] += (logs.sum(0) <= 0).float()
    return logs.div_(logs.sum(0))


def _refined(
    posteriors: Tensor,
    scans: Sequence[Contrast],
    registration: Registration,
    grid: Grid,
    card: ModelCard,
) -> Tensor:
    """Return posteriors on the grid refined by the intensities of all scans."""
    images, steps, slices = [], [], []
    for scan, move in zip(scans, registration.to_scans, strict=True):
        image = torch.from_numpy(np.ascontiguousarray(scan.intensities, dtype=np.float32))
        to_halfway = np.linalg.inv(move) @ scan.affine
        to_scan = np.linalg.inv(to_halfway) @ grid.affine
        images.append(sample_image(image, to_scan, grid.shape).numpy())
        steps.append(_steps_halfway(scan.prior, move))
        slices.append(acquired_slices(image, to_halfway, grid, scan.prior.steps_mm))
    mirror = mirror_channels(card.labels).tolist()
    settings = COMMON_MM, mirror, card.intensity_weight
    return refine(posteriors, images, *settings, steps, slices=slices, shown_anew=SHOWN_ANEW)


def _steps_halfway(prior: SoftSegmentation, move: np.ndarray) -> np.ndarray:
    """Return the spacing of a scan's voxels along the axes halfway, in voxels of the grid."""
    directions = prior.grid.affine[:3, :3] / spacing_mm(prior.grid.affine)
    along = directions.T @ move[:3, :3]
    steps: np.ndarray = np.sqrt(((along * prior.steps_mm[:, None]) ** 2).sum(axis=0)) / COMMON_MM
    return steps


def _within(box: tuple[slice, ...], outer: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the part of a box inside another one, as indices in that one."""
    found = []
    for part, whole in zip(box, outer, strict=True):
        start = max(part.start, whole.start) - whole.start
        stop = min(part.stop, whole.stop) - whole.start
        found.append(slice(start, max(stop, start)))
    return tuple(found)
