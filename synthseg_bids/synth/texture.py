"""What real tissues have and one Gaussian per label lacks: textures and lesions.

The papers' tissues differ from voxel to voxel without any order. Real ones vary smoothly as well,
each in its own way, over millimetres to centimetres; and white matter has lesions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..labels import generation_labels
from ..linear import apply_along_axes, interpolation_matrix
from .draws import between

#: Label in which each label's lesions are drawn (FreeSurfer's numbers).
LESION_OF = {2: 25, 41: 57}


@dataclass(frozen=True)
class TextureConfig:
    """Ranges of textures and lesions.

    Attributes
    ----------
    share : tuple of float
        Of each label's variance, what is smooth; the rest is noise.
    size_mm : tuple of float
        Distance of the independent values that a texture is interpolated from; logarithmic.
    lesion_probability : float
        Chance of lesions in the white matter. They count as white matter.
    lesion_size_mm : tuple of float
        As `size_mm`, for the texture whose highest values are lesions.
    lesion_share : tuple of float
        Of the white matter, what is lesions.
    """

    share: tuple[float, float] = (0, 1)
    size_mm: tuple[float, float] = (2, 30)
    lesion_probability: float = 0.3
    lesion_size_mm: tuple[float, float] = (3, 12)
    lesion_share: tuple[float, float] = (0, 0.1)


@dataclass(frozen=True)
class Texture:
    """One drawn texture.

    Attributes
    ----------
    share : float
        Of the variance, what is smooth.
    field : (i, j, k) tensor
        Its values, before they are interpolated to the image's grid.
    lesions : (i, j, k) tensor or None
        The same, of the texture whose highest values are lesions.
    lesion_share : float
    """

    share: float
    field: Tensor
    lesions: Tensor | None
    lesion_share: float


def _draw_field(
    bounds_mm: tuple[float, float],
    size: tuple[int, int, int],
    spacing_mm: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw standard normal values at a random distance from each other."""
    logarithms = (math.log(bounds_mm[0]), math.log(bounds_mm[1]))
    distance = math.exp(float(between(logarithms, generator, 1)))
    grid = [max(2, math.ceil(n * spacing_mm / distance)) for n in size]
    return torch.randn(*grid, generator=generator)


def draw_texture(
    config: TextureConfig,
    size: tuple[int, int, int],
    spacing_mm: float,
    generator: torch.Generator,
) -> Texture:
    """Draw textures and lesions.

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
    share = float(between(config.share, generator, 1))
    values = _draw_field(config.size_mm, size, spacing_mm, generator)
    lesions = None
    if float(torch.rand(1, generator=generator)) < config.lesion_probability:
        lesions = _draw_field(config.lesion_size_mm, size, spacing_mm, generator)
    return Texture(share, values, lesions, float(between(config.lesion_share, generator, 1)))


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
        interpolation_matrix(torch.linspace(0, g - 1, n), g)
        for n, g in zip(size, values.shape, strict=True)
    )
    smooth = apply_along_axes(values, (x, y, z))
    return smooth.sub_(smooth.mean()).div_(smooth.std())


def add_texture(noise: Tensor, texture: Texture) -> Tensor:
    """Make a share of standard normal noise smooth, in place.

    Parameters
    ----------
    noise : (x, y, z) tensor
    texture : Texture

    Returns
    -------
    (x, y, z) tensor
        Of the same variance.
    """
    x, y, z = noise.shape
    smooth = interpolated(texture.field, (x, y, z))
    return noise.mul_(math.sqrt(1 - texture.share)).add_(smooth, alpha=math.sqrt(texture.share))


def lesion_mask(texture: Texture, size: tuple[int, int, int]) -> Tensor | None:
    """Return where white matter is a lesion, on the grid of the label map's crop, if anywhere."""
    if texture.lesions is None:
        return None
    level = float(torch.special.ndtri(torch.tensor(1 - texture.lesion_share)))
    return interpolated(texture.lesions, size) > level


@lru_cache(maxsize=1)
def lesion_rows() -> Tensor:
    """Per generation label: the row of what its lesions are drawn as; itself if it has none."""
    labels = generation_labels()
    row = {label.index: i for i, label in enumerate(labels)}
    return torch.tensor(
        [row[LESION_OF.get(label.index, label.index)] for label in labels], dtype=torch.uint8
    )
