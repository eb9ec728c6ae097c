"""White matter that myelinates from the centre of the brain outwards (not of the papers).

Between birth and about two years of age, myelin reaches the white matter near the internal capsule
first and that of the gyri last (Kinney et al. 1988, Deoni et al. 2011, Dubois et al. 2014). Around
birth it is often the other way: deep white matter has the longest T2 (Maalouf et al. 1999, Hagmann
et al. 2009). Scans show white matter of two intensities then, with a gradual border between them.
Depth is the blurred mask of the cortex: the thin white matter of a gyrus, which has cortex on both
sides, is as near to it as white matter can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .lesions import CORTEX, WHITE_MATTER
from .nearness import label_mask, nearness
from .sampling import uniform
from .texture import draw_field, interpolated


@dataclass(frozen=True)
class MyelinationConfig:
    """Ranges of the border between deep and outer white matter.

    Attributes
    ----------
    front : tuple of float
        Nearness to the cortex, in [0, 1], where the border lies; below 0 hardly anything is
        myelinated, above 1 nearly everything.
    width : tuple of float
        Width of the border, as a difference of nearness; above 0, so that it is gradual.
    unevenness : tuple of float
        Standard deviation of a smooth random field by which the border is displaced.
    size_mm : tuple of float
        Spacing of the independent values of this field; log-uniform.
    """

    front: tuple[float, float] = (-0.25, 1.25)
    width: tuple[float, float] = (0.1, 1)
    unevenness: tuple[float, float] = (0, 0.3)
    size_mm: tuple[float, float] = (10, 40)


@dataclass(frozen=True)
class Myelination:
    """The drawn border of one scan; attributes as in :class:`MyelinationConfig`.

    Attributes
    ----------
    field : (i, j, k) tensor
        Standard normal values, before they are interpolated to the label map's grid.
    front, width, unevenness : float
    """

    field: Tensor
    front: float
    width: float
    unevenness: float


def draw_myelination(
    config: MyelinationConfig,
    size: tuple[int, int, int],
    spacing_mm: float,
    generator: torch.Generator,
) -> Myelination:
    """Draw the border between deep and outer white matter.

    Parameters
    ----------
    config : MyelinationConfig
    size : tuple of int
        Size of the image.
    spacing_mm : float
        Spacing of its grid.
    generator : torch.Generator

    Returns
    -------
    Myelination
    """
    field = draw_field(config.size_mm, size, spacing_mm, generator)
    front, width, unevenness = (
        float(uniform(bounds, generator, 1))
        for bounds in (config.front, config.width, config.unevenness)
    )
    return Myelination(field, front, width, unevenness)


def deep_fraction(rows: Tensor, myelination: Myelination) -> Tensor:
    """Return how much of each voxel is deep white matter.

    Parameters
    ----------
    rows : (x, y, z) uint8 tensor
        Rows of the generation table.
    myelination : Myelination

    Returns
    -------
    (x, y, z) float32 tensor
        In [0, 1]; 0 outside the cerebral white matter.
    """
    x, y, z = rows.shape
    white = label_mask(WHITE_MATTER, rows.device)[rows.int()]
    depth = interpolated(myelination.field, (x, y, z)).mul_(myelination.unevenness)
    depth.add_(myelination.front - nearness(rows, CORTEX))
    return depth.div_(myelination.width).add_(0.5).clamp_(0, 1).mul_(white)
