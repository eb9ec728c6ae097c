"""Register scans of one participant rigidly, by their soft segmentations.

Any contrasts can be registered. The centroids of structures give the start (Kabsch). Then
Gauss-Newton steps minimise, in the space halfway between all scans, the squared difference of each
scan's smoothed probabilities of groups of structures to their mean over the scans. All scans are
treated alike: registering them in another order gives the same transforms, and for two scans one
direction is the inverse of the other (compare Reuter et al., NeuroImage 53:1181, 2010). Where the
scans themselves are given, their intensities decide about the last tenths of a millimetre
(:mod:`.register_intensities`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from ..images.geometry import Grid, spacing_mm
from ..linear import apply_along_axes, blur_matrix
from ..measure.agreement import MIN_STRUCTURES, AlignmentError, kabsch
from .register_intensities import Image, align
from .rigid_resample import rigid_matrix, voxel_indices
from .soft_segmentation import SoftSegmentation

#: Structures whose borders are compared. Left out is what ends with the field of view or is not
#: in every label scheme: fluid around the brain, lesions.
GROUPS = (
    (2,), (41,), (3,), (42,), (4, 5), (43, 44), (7, 8), (46, 47),
    (10, 11, 12, 13, 26), (49, 50, 51, 52, 58), (17, 18), (53, 54), (14, 15), (16, 28, 60),
)  # fmt: skip
#: Spacing of the averages in the finer of two levels, in mm; twice that in the other.
FINE_MM = 2.0
#: Spacing of the grid halfway, in units of that, and the steps of Gauss-Newton on it at most.
SPARSE, STEPS = 1.5, (10, 5)
#: Standard deviation of the smoothing, in voxels of the averages.
SMOOTHING = 1.0
#: Steps that move the brain less than this end a level, in mm and in degrees; the former if
#: intensities decide afterwards.
NEARLY, CONVERGED = 0.1, 0.01
#: Zeros around the brain's box, in voxels of the level.
MARGIN = 3
#: Mean probability above which a structure counts for the start, in voxels of 1 mm^3.
MIN_VOLUME_MM3 = 100.0


@dataclass(frozen=True, eq=False)
class Registration:
    """Rigid transforms between scans and the space halfway between all of them.

    Attributes
    ----------
    to_scans : tuple of (4, 4) float arrays
        For each scan, maps positions in the space halfway to positions in the scan, both in mm
        (RAS+).
    overlaps : tuple of float
        Soft Dice of each scan's groups of structures, smoothed with 2 mm, with the mean of the
        other scans: 1 if they are the same.
    centroid_mm : tuple of float
        Root mean square distance of the centroids of each scan's structures from their mean over
        the scans, weighted by the roots of their volumes, after registration.
    """

    to_scans: tuple[np.ndarray, ...]
    overlaps: tuple[float, ...]
    centroid_mm: tuple[float, ...]

    def between(self, one: int, other: int) -> np.ndarray:
        """Return the (4, 4) matrix that maps positions in one scan to those in another."""
        return self.to_scans[other] @ np.linalg.inv(self.to_scans[one])


@dataclass(frozen=True)
class _Level:
    """Smoothed groups of a segmentation, and where its field of view is, on a coarse grid."""

    groups: Tensor
    affine: np.ndarray


def register(
    segmentations: Sequence[SoftSegmentation], images: Sequence[Image] = ()
) -> Registration:
    """Register scans of one participant.

    Parameters
    ----------
    segmentations : sequence of SoftSegmentation
        Two at least, of any contrasts, resolutions and fields of view that share most of a brain.
    images : sequence of (array, array), optional
        The scans and their affines. Without them, segmentations alone are registered.

    Returns
    -------
    Registration

    Raises
    ------
    AlignmentError
        If two of them have fewer than four structures in common.
    """
    fine = [_coarse(segmentation, FINE_MM) for segmentation in segmentations]
    points = [_centroids(level) for level in fine]
    moves = _start(points)
    coarse = [_coarser(level) for level in fine]
    least = NEARLY if images else CONVERGED
    for averages, spacing, steps in zip(
        (coarse, fine), (2 * FINE_MM, FINE_MM), STEPS, strict=True
    ):
        levels = [_smoothed(level) for level in averages]
        grid = grid_halfway(segmentations, moves, SPARSE * spacing)
        for _ in range(steps):
            samples, seen = _sample(levels, moves, grid)
            changes = _gauss_newton(samples, seen, grid)
            moves = [
                move @ rigid_matrix(change) for move, change in zip(moves, changes, strict=True)
            ]
            reach = np.array([1.0, 1.0, 1.0, *np.degrees([1.0, 1.0, 1.0])])
            if float(np.abs(changes * reach).max()) < least:
                break
    samples, seen = _sample(levels, moves, grid)
    if images:
        moves = align(images, moves, samples.mean(0), grid)
        samples, seen = _sample(levels, moves, grid)
    return Registration(tuple(moves), _overlaps(samples, seen), _distances(points, moves))


def _centroids(level: _Level) -> dict[int, tuple[np.ndarray, float]]:
    """Return the centroid in mm and the volume in mm^3 of each group of structures."""
    voxel_mm3 = float(np.prod(spacing_mm(level.affine)))
    found = {}
    for number, group in enumerate(level.groups[:-1]):
        plane = group.sum(2).double()
        profiles = plane.sum(1), plane.sum(0), group.sum(0).double().sum(0)
        volume = float(plane.sum())
        if volume * voxel_mm3 >= MIN_VOLUME_MM3:
            index = [float(p @ torch.arange(len(p)).double()) / volume for p in profiles]
            centre = level.affine[:3, :3] @ index + level.affine[:3, 3]
            found[number] = centre, volume * voxel_mm3
    return found


def _common(
    one: dict[int, tuple[np.ndarray, float]], other: dict[int, tuple[np.ndarray, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the centroids of common structures in both, and their weights."""
    labels = sorted({*one} & {*other})
    if len(labels) < MIN_STRUCTURES:
        raise AlignmentError(f'only {len(labels)} structures in common')
    # The root of the volume, as in measure.agreement.
    weights = np.array([(one[label][1] * other[label][1]) ** 0.25 for label in labels])
    first, second = (np.array([part[label][0] for label in labels]) for part in (one, other))
    return first, second, weights


def _start(points: Sequence[dict[int, tuple[np.ndarray, float]]]) -> list[np.ndarray]:
    """Return the transforms from halfway to each scan by the centroids of structures.

    A scan's transform to the space halfway is the mean of those to all scans. Whatever the order
    of the scans, the mean is the same; and since a rotation of one of them rotates all of its
    transforms, consistent pairs give one space for all.
    """
    moves = []
    for one in points:
        centre = np.average([c for c, _ in one.values()], axis=0) if one else np.zeros(3)
        turns, places = [], []
        for other in points:
            motion = np.eye(4)
            if other is not one:
                motion = kabsch(*_common(one, other))
            turns.append(motion[:3, :3])
            places.append(motion[:3, :3] @ centre + motion[:3, 3])
        halfway = np.eye(4)
        halfway[:3, :3] = Rotation.from_matrix(np.array(turns)).mean().as_matrix()
        halfway[:3, 3] = np.mean(places, axis=0) - halfway[:3, :3] @ centre
        moves.append(np.linalg.inv(halfway))
    return moves


def _coarse(segmentation: SoftSegmentation, spacing: float) -> _Level:
    """Average the groups over blocks, add a margin, and append the field of view as a channel."""
    grid = segmentation.grid
    block = max(round(spacing / float(spacing_mm(grid.affine).mean())), 1)
    groups, affine = segmentation.block_means(GROUPS, block)
    groups = functional.pad(groups, [MARGIN] * 6)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, MARGIN)
    seen = torch.ones(1, *groups.shape[1:])
    for axis, part in enumerate(segmentation.box):
        first = part.start + block * (torch.arange(groups.shape[1 + axis]) - MARGIN)
        inside = (first >= 0) & (first + block <= grid.shape[axis])
        seen *= inside.float().view([-1 if a == axis else 1 for a in range(3)])
    return _Level(torch.cat([groups, seen]), affine)


def _coarser(level: _Level) -> _Level:
    """Average over two voxels along each axis."""
    groups = functional.avg_pool3d(level.groups, 2)
    affine = level.affine @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] += level.affine[:3, :3] @ np.full(3, 0.5)
    return _Level(groups, affine)


def _smoothed(level: _Level) -> _Level:
    """Smooth the groups, not the field of view."""
    groups = level.groups[:-1]
    x, y, z = (blur_matrix(n, SMOOTHING) for n in groups.shape[1:])
    smooth = apply_along_axes(groups, (x, y, z))
    return _Level(torch.cat([smooth, level.groups[-1:]]), level.affine)


def grid_halfway(
    segmentations: Sequence[SoftSegmentation], moves: Sequence[np.ndarray], spacing: float
) -> Grid:
    """Return a grid in the space halfway that covers all brains.

    Parameters
    ----------
    segmentations : sequence of SoftSegmentation
    moves : sequence of (4, 4) arrays
        For each scan, maps positions in the space halfway to positions in the scan.
    spacing : float
        Voxel size in mm.

    Returns
    -------
    Grid
    """
    corners = np.concatenate([
        (
            np.linalg.inv(move)
            @ one.affine
            @ [(*c, 1.0) for c in product(*((0, n - 1) for n in one.posteriors.shape[1:]))][i]
        )[None, :3]
        for one, move in zip(segmentations, moves, strict=True)
        for i in range(8)
    ])  # fmt: skip
    low, high = corners.min(axis=0), corners.max(axis=0)
    n = np.ceil((high - low) / spacing).astype(int) + 1
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - spacing * (n - 1) / 2
    return Grid(tuple(n.tolist()), affine)


def _sample(
    levels: Sequence[_Level], moves: Sequence[np.ndarray], grid: Grid
) -> tuple[Tensor, Tensor]:
    """Return all scans' groups on a grid halfway, and the part of it that all scans show."""
    index = voxel_indices(grid.shape)
    found = []
    for level, move in zip(levels, moves, strict=True):
        shape = np.array(level.groups.shape[1:])
        matrix = np.linalg.inv(level.affine) @ move @ grid.affine
        # Positions from -1 to 1 between the outermost voxels' centres, in the order z, y, x.
        scale = (2 / np.maximum(shape - 1, 1))[::-1, None]
        linear = torch.from_numpy(matrix[2::-1, :3] * scale).float()
        shift = torch.from_numpy(matrix[2::-1, 3] * scale[:, 0] - 1).float()
        where = (index @ linear.T + shift)[None]
        found.append(functional.grid_sample(level.groups[None], where, align_corners=True)[0])
    stacked = torch.stack(found)
    return stacked[:, :-1], stacked[:, -1].amin(0)


def _gauss_newton(samples: Tensor, seen: Tensor, grid: Grid) -> np.ndarray:
    """Return the change of each scan's transform, translation in mm and rotation vector.

    The gradient is that of the scans' mean, so that one system of equations serves all scans and
    their changes add up to zero.

    Parameters
    ----------
    samples : (n_scans, n_groups, x, y, z) tensor
    seen : (x, y, z) tensor
        Weight of each voxel.
    grid : Grid

    Returns
    -------
    (n_scans, 6) float64 array
    """
    mean = samples.mean(0)
    spacing = float(grid.affine[0, 0])
    inner = (slice(1, -1),) * 3
    x, y, z = (
        (torch.arange(n).float() * spacing + float(start))[1:-1]
        for n, start in zip(grid.shape, grid.affine[:3, 3], strict=True)
    )
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    weight = seen[inner]
    normal, right = np.zeros((6, 6)), np.zeros((len(samples), 6))
    for group in range(len(mean)):
        gx, gy, gz = (
            (mean[group].narrow(a, 2, n - 2) - mean[group].narrow(a, 0, n - 2)) / (2 * spacing)
            for a, n in enumerate(grid.shape)
        )
        gx, gy, gz = gx[:, 1:-1, 1:-1], gy[1:-1, :, 1:-1], gz[1:-1, 1:-1]
        jacobian = torch.stack(
            [gx, gy, gz, y * gz - z * gy, z * gx - x * gz, x * gy - y * gx]
        ).flatten(1)
        weighted = jacobian * weight.flatten()
        normal += (weighted @ jacobian.T).double().numpy()
        apart = (samples[:, group] - mean[group])[(slice(None), *inner)].flatten(1)
        right += (apart @ weighted.T).double().numpy()
    return -np.linalg.solve(normal + 1e-9 * np.trace(normal) * np.eye(6), right.T).T


def _overlaps(samples: Tensor, seen: Tensor) -> tuple[float, ...]:
    """Return the soft Dice of each scan with the mean of the others."""
    samples = samples * seen
    total = samples.sum(0)
    found = []
    for one in samples:
        others = (total - one) / (len(samples) - 1)
        common = float(torch.minimum(one, others).sum())
        found.append(2 * common / max(float(one.sum() + others.sum()), 1e-6))
    return tuple(found)


def _distances(
    points: Sequence[dict[int, tuple[np.ndarray, float]]], moves: Sequence[np.ndarray]
) -> tuple[float, ...]:
    """Return the RMS distance in mm of each scan's centroids from their mean over the scans."""
    labels = sorted(set.intersection(*({*one} for one in points)))
    placed = np.array([
        [(np.linalg.inv(move) @ [*one[label][0], 1.0])[:3] for label in labels]
        for one, move in zip(points, moves, strict=True)
    ])  # fmt: skip
    weights = np.mean([[one[label][1] for label in labels] for one in points], axis=0) ** 0.5
    squares = ((placed - placed.mean(0)) ** 2).sum(-1)
    return tuple(np.sqrt(np.average(squares, axis=1, weights=weights)).tolist())
