"""Random acquisition resolution: slice thickness, slice spacing and blur."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear import acquisition_matrix, apply_along_axes


@dataclass(frozen=True)
class ResolutionConfig:
    """Ranges of the simulated acquisition (reference implementation of 2023).

    Attributes
    ----------
    full_probability : float
        Chance of an acquisition at the image's own resolution.
    isotropic_probability : float
        Chance, otherwise, that every axis is coarse.
    max_isotropic_mm, max_slice_mm : float
        Largest spacing of such axes, and of the slices of all other scans.
    blur_jitter : float
        The blur varies by up to this factor, and its inverse.
    """

    full_probability: float = 0.05
    isotropic_probability: float = 0.1
    max_isotropic_mm: float = 4
    max_slice_mm: float = 8
    blur_jitter: float = 1.03


@dataclass(frozen=True)
class Resolution:
    """One drawn acquisition: per axis the blur and the slice spacing, in voxels."""

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
        Spacing of the image's grid; no acquisition is finer.
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
    # Slice profile of 0.75 times the thickness; half a voxel where nothing is coarser.
    sigma = [
        (0.5 if t <= spacing_mm else 0.75 * t / spacing_mm) * float(j)
        for t, j in zip(thickness, jitter, strict=True)
    ]
    step = [s / spacing_mm for s in spacing]
    return Resolution((sigma[0], sigma[1], sigma[2]), (step[0], step[1], step[2]))


def acquire(image: Tensor, resolution: Resolution) -> Tensor:
    """Blur an image and resample it as if it had been acquired at a coarser resolution.

    Parameters
    ----------
    image : (x, y, z) tensor
    resolution : Resolution

    Returns
    -------
    (x, y, z) tensor
        On the same grid.
    """
    x, y, z = (
        acquisition_matrix(n, sigma, step)
        for n, sigma, step in zip(image.shape, resolution.sigma, resolution.step, strict=True)
    )
    return apply_along_axes(image, (x, y, z))
