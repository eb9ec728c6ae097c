"""What thick slices tell about finer voxels, of a scan that is turned against their grid.

A voxel of a thick slice is the mean of fine ones, weighted by the slice profile. How far an
expected fine image is from the acquired voxels says how the image has to change: the smallest
change that explains them, given some noise, is the regularised inverse of the acquisition (as in
super-resolution from slices in several planes; Gholipour et al., IEEE TMI 29:1739, 2010).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import Grid, bounding_box, spacing_mm
from ..images.resampling import resample
from ..linear import interpolation_matrix
from .rigid_resample import inside, sample_whole

#: Standard deviation of the slice profile and of the point-spread function, in scan voxels.
BLUR = 0.5
#: Spacing in fine voxels from which the inverse along an axis is worth it.
COARSE = 1.5
#: Variance of the noise of acquired voxels divided by the one that uncorrelated changes of fine
#: voxels would give them. Chosen on generated sessions of heads of the training: 0.1 gives less,
#: down to 0.001 all the same.
NOISE = 0.02
#: An acquired voxel counts if the fine grid holds this much of its profile.
LEAST_HELD = 0.95
#: Original voxels larger than those of the file by this factor show that it was interpolated.
INTERPOLATED = 1.3


@dataclass(frozen=True, eq=False)
class Slices:
    """The acquired voxels of a scan near a grid of fine voxels.

    Attributes
    ----------
    image : (i, j, k) float32 tensor
    held : (i, j, k) bool tensor
        Acquired voxels whose profile lies in the grid.
    to_grid, to_fine : (4, 4) array
        They map voxels of the scan's own fine grid, which has its axes, to those of the grid, and
        back.
    shape : (3,) tuple of int
        Shape of the scan's own fine grid.
    acquire, restore : three matrices
        They turn fine voxels into acquired ones along each axis, and, as the regularised inverse,
        acquired ones into fine ones.
    """

    image: Tensor
    held: Tensor
    to_grid: np.ndarray
    to_fine: np.ndarray
    shape: tuple[int, ...]
    acquire: tuple[Tensor, Tensor, Tensor]
    restore: tuple[Tensor, Tensor, Tensor]

    def with_image(self, image: Tensor) -> Slices:
        """Return the same with other intensities."""
        return replace(self, image=image)

    def residual(self, expected: Tensor) -> Tensor:
        """Return the change of an expected image that explains the acquired voxels.

        Parameters
        ----------
        expected : (x, y, z) float32 tensor
            On the grid, with the intensities of the acquired voxels.

        Returns
        -------
        (x, y, z) float32 tensor
            0 where the scan shows nothing.
        """
        change = resample(self.acquired_difference(expected), self.restore)
        return sample_whole(change, self.to_fine, tuple(expected.shape))

    def acquired_difference(self, expected: Tensor) -> Tensor:
        """Return the acquired voxels minus those of an expected image.

        Parameters
        ----------
        expected : (x, y, z) float32 tensor
            See :meth:`residual`.

        Returns
        -------
        (i, j, k) float32 tensor
            0 for voxels whose profile does not lie in the grid.
        """
        fine = sample_whole(expected, self.to_grid, self.shape)
        return (self.image - resample(fine, self.acquire)) * self.held


def acquired_slices(
    image: Tensor, affine: np.ndarray, grid: Grid, original_mm: np.ndarray
) -> Slices | None:
    """Return the acquired voxels of a scan near a grid.

    Parameters
    ----------
    image : (i, j, k) float32 tensor
    affine : (4, 4) array
        It maps voxels of the image to the space of the grid.
    grid : Grid
        It has the same spacing along all axes.
    original_mm : (3,) array
        Spacing of the original voxels along the axes in the order of RAS, see
        :func:`.original_spacing.own_steps`.

    Returns
    -------
    Slices or None
        None if no axis is coarse, or if slices were interpolated before so that it is not known
        where they were, or if nothing of the scan lies in the grid.
    """
    fine_mm = float(spacing_mm(grid.affine)[0])
    scan = Grid(tuple(image.shape), np.asarray(affine, dtype=float))
    own = np.maximum(spacing_mm(scan.in_ras().affine), fine_mm)
    if own.max() <= COARSE * fine_mm or (original_mm > INTERPOLATED * own).any():
        return None
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    box = bounding_box(inside(np.linalg.inv(to_scan), scan.shape, grid.shape).numpy())
    if box is None:
        return None
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    near = Grid(tuple(part.stop - part.start for part in box), scan.affine @ corner)
    fine = near.resampled(fine_mm)
    to_grid = np.linalg.inv(grid.affine) @ fine.affine
    matrices = [
        _along_axis(n, n_fine, step)
        for n, n_fine, step in zip(
            near.shape, fine.shape, spacing_mm(near.affine) / fine_mm, strict=True
        )
    ]
    (a, d), (b, e), (c, f) = matrices
    held = resample(inside(to_grid, fine.shape, grid.shape).float(), (a, b, c)) > LEAST_HELD
    return Slices(
        image[box].contiguous(), held, to_grid, np.linalg.inv(to_grid), fine.shape,
        (a, b, c), (d, e, f),
    )  # fmt: skip


def _along_axis(n: int, n_fine: int, step: float) -> tuple[Tensor, Tensor]:
    """Return the matrices of an axis that acquire, and that restore what was acquired."""
    centres = (torch.arange(n) - (n - 1) / 2) * step + (n_fine - 1) / 2
    distance = torch.arange(n_fine) - centres[:, None]
    profile = torch.exp(-0.5 * (distance / (BLUR * max(step, 1.0))) ** 2)
    acquire = profile / profile.sum(1, keepdim=True)
    if step <= COARSE:
        places = (torch.arange(n_fine) - (n_fine - 1) / 2) / step + (n - 1) / 2
        return acquire, interpolation_matrix(places, n)
    exact = acquire.double()
    gram = exact @ exact.T
    gram += NOISE * gram.diagonal().max() * torch.eye(n, dtype=gram.dtype)
    return acquire, torch.linalg.solve(gram, exact).T.float().contiguous()
