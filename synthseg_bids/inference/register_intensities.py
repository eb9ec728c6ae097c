"""Register scans of one head by their intensities, from where their segmentations have put them.

Borders that a network draws are off by a few tenths of a millimetre, another way in each contrast
and slice direction, and registration by segmentations with them. The intensities show where scans
really lie: the mutual information of all pairs of scans is maximised (Wells et al., Medical Image
Analysis 1:35, 1996; Maes et al., IEEE TMI 16:187, 1997), by which any contrasts can be compared.
Bias fields, which mislead it, are estimated first from the segmentations. Segmentations stay a
prior, so that scans which show hardly any contrast remain where these have put them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy import ndimage
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from ..images.geometry import Grid
from ..linear import apply_along_axes, blur_matrix
from .rigid_resample import rigid_matrix, voxel_indices

#: A scan's intensities and its affine.
Image = tuple[np.ndarray, np.ndarray]

#: Bins of a histogram of intensities, and the part of them at each end that counts as the end.
BINS, TAIL = 32, 0.5
#: Standard deviation of what segmentations leave to correct, in mm and in degrees.
TRUST = 0.5
#: Samples that tell as much as an independent one. Neighbours have noise, blur and the shape of
#: structures in common. Sessions of generated scans were registered alike with 125 to 1000, but
#: those without contrast drifted away with 125.
DEPENDENT = 400
#: Steps of the optimiser at most, and the relative gain by a step that is the last one.
STEPS, LEAST_GAIN = 12, 1e-5
#: Posterior above which a voxel is brain, and how far around the brain intensities count, in mm.
BRAIN, AROUND_MM = 0.2, 6.0
#: Smoothness of bias fields in mm, how often field and means are estimated in turn, and the
#: largest and smallest value of a field.
DRIFT_MM, TURNS, MOST_BIAS = 20.0, 3, 20.0
#: Binomial smoothing of histograms.
KERNEL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


@torch.inference_mode(mode=False)
def align(
    images: Sequence[Image], moves: Sequence[np.ndarray], groups: Tensor, grid: Grid
) -> list[np.ndarray]:
    """Align scans by their intensities.

    Parameters
    ----------
    images : sequence of (array, array)
        The scans, on their own grids.
    moves : sequence of (4, 4) arrays
        For each scan, maps positions in the space halfway to positions in the scan.
    groups : (n_groups, x, y, z) tensor
        Mean probabilities of groups of structures.
    grid : Grid
        Their grid in the space halfway, of 2 to 4 mm.

    Returns
    -------
    list of (4, 4) arrays
        Like `moves`; what is changed adds up to zero over the scans.
    """
    groups = groups.clone()  # callers in inference mode give a tensor that knows no gradients
    spacing = float(grid.affine[0, 0])
    brain = (groups.sum(0) > BRAIN).numpy()
    reach = max(round(AROUND_MM / spacing), 1)
    near = torch.from_numpy(ndimage.binary_dilation(brain, iterations=reach))
    if not near.any():
        return [*moves]
    index = voxel_indices(grid.shape)
    # Points on a grid would show where it and those of the scans fall on each other.
    jitter = torch.rand(int(near.sum()), 3, generator=torch.Generator().manual_seed(0)) - 0.5
    affine = torch.from_numpy(grid.affine).float()
    points = (index[near] + jitter) @ affine[:3, :3].T + affine[:3, 3]
    scans = [
        _Scan(image, move, grid, index, near, groups)
        for image, move in zip(images, moves, strict=True)
    ]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(flat.astype(np.float32)).requires_grad_()
        total = _cost(scans, points, free.view(len(scans), 6))
        (gradient,) = torch.autograd.grad(total, free)
        return total.item(), gradient.numpy().astype(np.float64)

    options = {'maxiter': STEPS, 'ftol': LEAST_GAIN}
    start = np.zeros(6 * len(scans))
    found = minimize(cost, start, jac=True, method='L-BFGS-B', options=options)
    changes = found.x.reshape(len(scans), 6)
    changes -= changes.mean(axis=0)
    changes[:, 3:] = np.radians(changes[:, 3:])
    centre = points.mean(0).double().numpy()
    return [m @ rigid_matrix(change, centre) for m, change in zip(moves, changes, strict=True)]


def _cost(scans: Sequence[_Scan], points: Tensor, changes: Tensor) -> Tensor:
    """Return how unlikely changes are, up to a constant: by their size and by intensities."""
    changes = changes - changes.mean(0)
    centre = points.mean(0)
    seen = [
        scan.at((points - centre) @ _rotation(change[3:]).T + centre + change[:3])
        for scan, change in zip(scans, changes, strict=True)
    ]
    total = 0.5 * (changes / TRUST).square().sum()
    for (one, weight), (other, of_other) in combinations(seen, 2):
        information = mutual_information(one, other, weight * of_other)
        total = total - len(points) / DEPENDENT * information
    return total


class _Scan:
    """A scan, and its bias field at all points."""

    def __init__(
        self, image: Image, move: np.ndarray, grid: Grid, index: Tensor, near: Tensor,
        groups: Tensor,
    ) -> None:  # fmt: skip
        self.volume = torch.from_numpy(np.ascontiguousarray(image[0], dtype=np.float32))
        self.to_voxels = torch.from_numpy(np.linalg.inv(image[1]) @ move).float()
        to_grid = torch.from_numpy(np.linalg.inv(image[1]) @ move @ grid.affine).float()
        values, inside = _interpolated(self.volume, index @ to_grid[:3, :3].T + to_grid[:3, 3])
        field = bias_field(values, groups * inside, float(grid.affine[0, 0]))
        self.field = field[near]
        low, high = np.percentile((values[near] / self.field).numpy(), [TAIL, 100 - TAIL])
        self.low, self.range = float(low), max(float(high - low), 1e-6)

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the intensities at points near those of the field, in bins, and what is seen."""
        voxels = points @ self.to_voxels[:3, :3].T + self.to_voxels[:3, 3]
        values, inside = _interpolated(self.volume, voxels)
        return ((values / self.field - self.low) / self.range).clamp(0, 1) * (BINS - 1), inside


def bias_field(values: Tensor, groups: Tensor, spacing_mm: float) -> Tensor:
    """Estimate the smooth field that multiplies the intensities of a scan.

    It is the weighted least squares fit of the field times the mean intensity of each group of
    structures, as Wells et al. (IEEE TMI 15:429, 1996) have it; in turn with these means.

    Parameters
    ----------
    values : (x, y, z) tensor
        Intensities.
    groups : (n_groups, x, y, z) tensor
        Probabilities of groups of structures; 0 where nothing is known.
    spacing_mm : float
        Voxel size.

    Returns
    -------
    (x, y, z) tensor
        1 on average, and far from all structures.
    """
    x, y, z = (blur_matrix(n, DRIFT_MM / spacing_mm) for n in values.shape)
    sizes = groups.sum((1, 2, 3)).clamp(min=1e-6)
    brain = groups.sum(0)
    field = torch.ones_like(values)
    for _ in range(TURNS):
        means = (groups * (values / field)).sum((1, 2, 3)) / sizes
        expected = (groups * means[:, None, None, None]).sum(0) / brain.clamp(min=1e-3)
        above = apply_along_axes(brain * values * expected, (x, y, z))
        below = apply_along_axes(brain * expected.square(), (x, y, z))
        least = 1e-4 * below.max().clamp(min=1e-12)
        field = ((above + least) / (below + least)).clamp_(1 / MOST_BIAS, MOST_BIAS)
    return field


def mutual_information(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return the mutual information of intensities, in nats.

    Parameters
    ----------
    one, other : (n,) float32 tensor
        Intensities in bins, from 0 to `BINS` - 1, in two scans; fractions belong to both bins.
    weight : (n,) float32 tensor

    Returns
    -------
    () tensor
        Differentiable in both.
    """
    lower = [part.detach().floor().clamp(0, BINS - 2) for part in (one, other)]
    upper_share = [part - bin_ for part, bin_ in zip((one, other), lower, strict=True)]
    first = (lower[0] * BINS + lower[1]).long()
    joint = torch.zeros(BINS * BINS)
    for up in (0, 1):
        row = (upper_share[0] if up else 1 - upper_share[0]) * weight
        for right in (0, 1):
            share = upper_share[1] if right else 1 - upper_share[1]
            joint = joint.index_add(0, first + up * BINS + right, row * share)
    smooth = functional.conv2d(
        joint.view(1, 1, BINS, BINS), (KERNEL[:, None] * KERNEL)[None, None], padding=2
    )[0, 0]
    smooth = smooth / smooth.sum().clamp(min=1e-6) + 1e-9
    return _negentropy(smooth) - _negentropy(smooth.sum(0)) - _negentropy(smooth.sum(1))


def _negentropy(shares: Tensor) -> Tensor:
    return (shares * shares.log()).sum()


def _interpolated(volume: Tensor, voxels: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate a volume linearly; return values, and 1 where the volume is, 0 elsewhere."""
    shape = torch.tensor(volume.shape).float()
    # Positions from -1 to 1 between the outermost voxels' centres, in the order z, y, x.
    where = (2 * voxels / (shape - 1).clamp(min=1) - 1).flip(-1)
    values = functional.grid_sample(
        volume[None, None],
        where.reshape(1, 1, 1, -1, 3),
        align_corners=True,
        padding_mode='border',
    )
    return values.view(voxels.shape[:-1]), (where.detach().abs().amax(-1) <= 1).float()


def _rotation(degrees: Tensor) -> Tensor:
    """Return the matrix of a rotation vector."""
    x, y, z = (degrees * (np.pi / 180)).unbind()
    zero = torch.zeros(())
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.matrix_exp(torch.stack([torch.stack(row) for row in rows]))
