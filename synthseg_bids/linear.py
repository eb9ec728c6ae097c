"""Linear operators along one axis, as small dense matrices.

Resizing, blurring and changing the slice spacing of a volume are all linear and separable.
As matrices of at most a few hundred rows they compose by multiplication, run at the speed of a
matrix product on CPU and GPU alike, and a chain of them costs one product per axis. They are made
on the device of the volume, since a copy from the host would wait for a GPU's earlier work.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CPU = torch.device('cpu')


def interpolation_matrix(positions: Tensor, size: int) -> Tensor:
    """Return the matrix that samples a line linearly, clamped to its ends.

    Parameters
    ----------
    positions : (n,) tensor
        Where to sample, in samples of the line.
    size : int
        Number of samples of the line.

    Returns
    -------
    (n, size) float32 tensor
        On the device of `positions`.

    Examples
    --------
    >>> interpolation_matrix(torch.tensor([0.0, 0.25, 9.0]), 3)
    tensor([[1.0000, 0.0000, 0.0000],
            [0.7500, 0.2500, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    positions = positions.to(torch.float32).clamp(0, size - 1)
    distance = (positions[:, None] - torch.arange(size, device=positions.device)).abs()
    return (1 - distance).clamp(min=0)


def blur_matrix(size: int, sigma: float, device: torch.device = CPU) -> Tensor:
    """Return the matrix of a Gaussian blur whose rows sum to one (edges renormalised).

    Parameters
    ----------
    size : int
        Number of samples.
    sigma : float
        Standard deviation in samples; 0 gives the identity.
    device : torch.device

    Returns
    -------
    (size, size) float32 tensor
    """
    if sigma <= 0:
        return torch.eye(size, device=device)
    index = torch.arange(size, dtype=torch.float32, device=device)
    distance = index[:, None] - index
    radius = max(1, math.ceil(4 * sigma))
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= radius)
    return kernel / kernel.sum(1, keepdim=True)


def acquisition_matrices(
    size: int, sigma: float, step: float, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Return the matrices that blur a line and sample it every `step`, and interpolate it back.

    This is one axis of a scan acquired with thick or widely spaced slices and resampled to its
    fine grid (method of the 2023 paper, section 3.3).

    Parameters
    ----------
    size : int
        Number of fine samples.
    sigma : float
        Standard deviation of the slice profile, in fine samples.
    step : float
        Distance between acquired slices in fine samples; 1 or less means no resampling.
    device : torch.device

    Returns
    -------
    down : (acquired, size) float32 tensor
    up : (size, acquired) float32 tensor
    """
    blur = blur_matrix(size, sigma, device)
    if step <= 1:
        return blur, torch.eye(size, device=device)
    acquired = max(2, int(size / step))
    slices = torch.arange(acquired, device=device)
    down = interpolation_matrix(slices * (size / acquired), size)
    up = interpolation_matrix(torch.arange(size, device=device) * (acquired / size), acquired)
    return down @ blur, up


def apply_along_axes(volume: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Multiply each of the last three axes of a volume by its own matrix.

    Parameters
    ----------
    volume : (..., x, y, z) tensor
    matrices : three tensors (x', x), (y', y), (z', z)

    Returns
    -------
    (..., x', y', z') tensor
    """
    along_x, along_y, along_z = (m.to(volume) for m in matrices)
    volume = volume @ along_z.T
    volume = along_y @ volume
    *batch, x, y, z = volume.shape
    return (along_x @ volume.reshape(*batch, x, y * z)).reshape(*batch, len(along_x), y, z)
