"""Random textures: smooth variation of intensities within tissues (not of the papers).

The papers draw voxels of a tissue independently. Real tissues also vary smoothly, over millimetres
to centimetres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear import apply_along_axes, interpolation_matrix
from .sampling import uniform


@dataclass(frozen=True)
class TextureConfig:
    """Ranges of textures.

    Attributes
    ----------
    share : tuple of float
        Smooth fraction of each label's variance; the rest is noise.
    size_mm : tuple of float
        Spacing of the independent values that a texture is interpolated from; log-uniform.
    """

    share: tuple[float, float] = (0, 1)
    size_mm: tuple[float, float] = (2, 30)


@dataclass(frozen=True)
class Texture:
    """One drawn texture.

    Attributes
    ----------
    share : float
        Smooth fraction of the variance.
    field : (i, j, k) tensor
        Values before interpolation to the image's grid.
    """

    share: float
    field: Tensor


def draw_field(
    bounds_mm: tuple[float, float],
    size: tuple[int, int, int],
    spacing_mm: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw standard normal values on a grid of random spacing."""
    logarithms = (math.log(bounds_mm[0]), math.log(bounds_mm[1]))
    distance = math.exp(float(uniform(logarithms, generator, 1)))
    grid = [max(2, math.ceil(n * spacing_mm / distance)) for n in size]
    return torch.randn(*grid, generator=generator)


def draw_texture(
    config: TextureConfig,
    size: tuple[int, int, int],
    spacing_mm: float,
    generator: torch.Generator,
) -> Texture:
    """Draw textures.

    Parameters
    ----------
    config : TextureConfig
    size : tuple of int
        Size of the image.
    spacing_mm : float
        Spacing of its grid.
    generator : torch.Generator

    Returns
    -------
    Texture
    """
    share = float(uniform(config.share, generator, 1))
    return Texture(share, draw_field(config.size_mm, size, spacing_mm, generator))


def interpolated(values: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Interpolate drawn values linearly to an image's grid, with mean 0 and variance 1.

    Parameters
    ----------
    values : (i, j, k) tensor
    size : tuple of int

    Returns
    -------
    size tensor
    """
    x, y, z = (
        interpolation_matrix(torch.linspace(0, g - 1, n, device=values.device), g)
        for n, g in zip(size, values.shape, strict=True)
    )
    smooth = apply_along_axes(values, (x, y, z))
    return smooth.sub_(smooth.mean()).div_(smooth.std())


def add_texture(noise: Tensor, texture: Texture) -> Tensor:
    """Replace a fraction of standard normal noise by a smooth texture, in place.

    Parameters
    ----------
    noise : (x, y, z) tensor
    texture : Texture

    Returns
    -------
    (x, y, z) tensor
        With the same variance.
    """
    x, y, z = noise.shape
    smooth = interpolated(texture.field, (x, y, z))
    return noise.mul_(math.sqrt(1 - texture.share)).add_(smooth, alpha=math.sqrt(texture.share))
