"""Random acquisition: slice thickness, slice spacing, blur, and noise of the acquired voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear import acquisition_matrices, apply_along_axes
from .sampling import uniform


@dataclass(frozen=True)
class ResolutionConfig:
    """Ranges of the simulated acquisition (reference implementation of 2023).

    Attributes
    ----------
    full_probability : float
        Probability of an acquisition at the image's own resolution.
    isotropic_probability : float
        Probability, otherwise, that all axes are coarse.
    max_isotropic_mm, max_slice_mm : float
        Largest spacing of these axes, and of the slices of all other scans.
    blur_jitter : float
        Largest factor by which the blur varies, and the inverse of the smallest.
    """

    full_probability: float = 0.05
    isotropic_probability: float = 0.1
    max_isotropic_mm: float = 4
    max_slice_mm: float = 8
    blur_jitter: float = 1.03


@dataclass(frozen=True)
class Resolution:
    """One drawn acquisition: blur and slice spacing per axis, in voxels."""

    sigma: tuple[float, float, float]
    step: tuple[float, float, float]


def draw_resolution(
    config: ResolutionConfig, spacing_mm: float, generator: torch.Generator
) -> Resolution:
    """Draw slice spacing and thickness.

    Parameters
    ----------
    config : ResolutionConfig
    spacing_mm : float
        Voxel size of the image; acquisitions are not finer.
    generator : torch.Generator

    Returns
    -------
    Resolution
    """
    full, isotropic, axis = torch.rand(3, generator=generator).tolist()
    draws = torch.rand(3, generator=generator).tolist()
    spacing = [spacing_mm] * 3
    if full >= config.full_probability:
        if isotropic < config.isotropic_probability:
            spacing = [1 + (config.max_isotropic_mm - 1) * draw for draw in draws]
        else:
            spacing[int(axis * 3)] = 1 + (config.max_slice_mm - 1) * draws[0]
    spacing = [max(s, spacing_mm) for s in spacing]
    # Slices are between 1 mm thick and as thick as their distance.
    thickness = [
        spacing_mm + (s - spacing_mm) * t
        for s, t in zip(spacing, torch.rand(3, generator=generator).tolist(), strict=True)
    ]
    jitter = config.blur_jitter ** (2 * torch.rand(3, generator=generator) - 1)
    # Slice profile of 0.75 times the thickness; half a voxel if not coarser than the image.
    sigma = [
        (0.5 if t <= spacing_mm else 0.75 * t / spacing_mm) * float(j)
        for t, j in zip(thickness, jitter, strict=True)
    ]
    step = [s / spacing_mm for s in spacing]
    return Resolution((sigma[0], sigma[1], sigma[2]), (step[0], step[1], step[2]))


@dataclass(frozen=True)
class NoiseConfig:
    """Ranges of the noise of the acquired voxels, before interpolation to the finer grid.

    The papers draw noise only in fine voxels, before the blur of the slices: with slices of 5 mm,
    16 % of it are left.

    Attributes
    ----------
    probability : float
        Probability of any.
    std : tuple of float
        Its standard deviation, for intensities in [0, 250]; log-uniform.
    rician_probability : float
        Probability that it is Rician, as in magnitude images, instead of Gaussian.
    """

    probability: float = 0.5
    std: tuple[float, float] = (0.5, 14)
    rician_probability: float = 0.4


@dataclass(frozen=True)
class Noise:
    """The drawn noise of one scan; the standard deviation is for intensities in [0, 1]."""

    std: float
    rician: bool


def draw_noise(config: NoiseConfig, generator: torch.Generator) -> Noise | None:
    """Draw the noise of the acquired voxels; None if there is none."""
    chance, kind = torch.rand(2, generator=generator).tolist()
    low, high = (math.log(bound / 250) for bound in config.std)
    std = math.exp(float(uniform((low, high), generator, 1)))
    return Noise(std, kind < config.rician_probability) if chance < config.probability else None


def add_noise(image: Tensor, noise: Noise, source: torch.Generator) -> Tensor:
    """Add noise to acquired voxels.

    Parameters
    ----------
    image : (x, y, z) tensor
        Overwritten.
    noise : Noise
    source : torch.Generator
        On the image's device.

    Returns
    -------
    (x, y, z) tensor
        If Rician, the magnitude of a complex signal with Gaussian noise (Gudbjartsson and Patz
        1995).
    """
    image.add_(torch.randn(image.shape, generator=source, device=image.device), alpha=noise.std)
    if not noise.rician:
        return image
    other = torch.randn(image.shape, generator=source, device=image.device)
    return torch.hypot(image, other.mul_(noise.std))


def acquire(
    image: Tensor,
    resolution: Resolution,
    noise: Noise | None = None,
    source: torch.Generator | None = None,
) -> Tensor:
    """Simulate the acquisition of an image at a coarser resolution: blur and resample.

    Parameters
    ----------
    image : (x, y, z) tensor
    resolution : Resolution
    noise : Noise, optional
        Noise of the acquired voxels.
    source : torch.Generator, optional
        Source of the noise, on the image's device.

    Returns
    -------
    (x, y, z) tensor
        On the same grid.
    """
    (down_x, up_x), (down_y, up_y), (down_z, up_z) = (
        acquisition_matrices(n, sigma, step, image.device)
        for n, sigma, step in zip(image.shape, resolution.sigma, resolution.step, strict=True)
    )
    image = apply_along_axes(image, (down_x, down_y, down_z))
    if noise is not None and source is not None:
        image = add_noise(image, noise, source)
    if max(resolution.step) <= 1:
        return image
    return apply_along_axes(image, (up_x, up_y, up_z))
