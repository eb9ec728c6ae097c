"""Lesions of the white matter: where they are, by chance and by place.

Lesions are the highest values of a smooth random field within the white matter. What is added to
the field near the ventricles and near the cortex makes most of them periventricular, as caps and
bands around the ventricles are, and others juxtacortical (Fazekas 1987; Kim et al. 2008). This is
our own, not of the papers, whose label maps have the few lesions that FreeSurfer found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import generation_labels
from ..linear import apply_along_axes, blur_matrix, interpolation_matrix
from .sampling import uniform
from .texture import draw_field, interpolated

#: Label in which each label's lesions are drawn (FreeSurfer's numbers).
LESION_OF = {2: 25, 41: 57}
#: Lateral ventricles with their choroid plexus, and cortex.
LATERAL_VENTRICLES = (4, 43, 136, 163)
CORTEX = (3, 42)
#: Voxels between the nodes on which distances are blurred, and the blur's standard deviation.
NODE = 4
REACH = 6.0
#: Every how many voxels the field is looked at to find its threshold.
EVERY = 7


@dataclass(frozen=True)
class LesionConfig:
    """Ranges of the lesions.

    Attributes
    ----------
    probability : float
        Chance that a scan has any.
    size_mm : tuple of float
        Distance of the independent values of the field; logarithmic.
    share : tuple of float
        Of the white matter, what is lesions; logarithmic. Of 450 ml that is 0.4 to 45 ml.
    periventricular, juxtacortical : tuple of float
        What is added to the field, of standard deviation 1, beside the ventricles and the cortex.
    """

    probability: float = 0.4
    size_mm: tuple[float, float] = (2.5, 10)
    share: tuple[float, float] = (0.001, 0.1)
    periventricular: tuple[float, float] = (0, 4)
    juxtacortical: tuple[float, float] = (-2, 1)


@dataclass(frozen=True)
class Lesions:
    """The drawn lesions of one scan; attributes as in :class:`LesionConfig`.

    Attributes
    ----------
    field : (i, j, k) tensor
        Standard normal values, before they are interpolated to the label map's grid.
    share, periventricular, juxtacortical : float
    """

    field: Tensor
    share: float
    periventricular: float
    juxtacortical: float


def draw_lesions(
    config: LesionConfig,
    size: tuple[int, int, int],
    spacing_mm: float,
    generator: torch.Generator,
) -> Lesions | None:
    """Draw lesions.

    Parameters
    ----------
    config : LesionConfig
    size : tuple of int
        Size of the image.
    spacing_mm : float
        Spacing of its grid.
    generator : torch.Generator

    Returns
    -------
    Lesions or None
        None if the scan has none.
    """
    chance = float(torch.rand(1, generator=generator))
    field = draw_field(config.size_mm, size, spacing_mm, generator)
    low, high = (math.log(bound) for bound in config.share)
    share = math.exp(float(uniform((low, high), generator, 1)))
    near = (
        float(uniform(bounds, generator, 1))
        for bounds in (config.periventricular, config.juxtacortical)
    )
    return Lesions(field, share, *near) if chance < config.probability else None


@lru_cache(maxsize=1)
def _tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per generation label: row of its lesions (itself if none); ventricle, cortex, white."""
    labels = generation_labels()
    row = {label.index: i for i, label in enumerate(labels)}
    lesion = [row[LESION_OF.get(label.index, label.index)] for label in labels]
    groups = (
        torch.tensor([label.index in group for label in labels])
        for group in (LATERAL_VENTRICLES, CORTEX, tuple(LESION_OF))
    )
    ventricle, cortex, white = groups
    return torch.tensor(lesion, dtype=torch.uint8), ventricle, cortex, white


def _nearness(inside: Tensor) -> Tensor:
    """Return 1 on the border of a mask, less away from it: its blur, on a coarse grid first.

    Parameters
    ----------
    inside : (x, y, z) bool tensor

    Returns
    -------
    (x, y, z) float32 tensor
        In [0, 1].
    """
    mask = inside.float()[None, None]
    coarse = functional.avg_pool3d(mask, NODE, ceil_mode=True)[0, 0]
    x, y, z = (blur_matrix(n, REACH / NODE) for n in coarse.shape)
    smooth = apply_along_axes(coarse, (x, y, z)).mul_(2).clamp_(max=1)
    x, y, z = (
        interpolation_matrix((torch.arange(n) - (NODE - 1) / 2) / NODE, g)
        for n, g in zip(inside.shape, coarse.shape, strict=True)
    )
    return apply_along_axes(smooth, (x, y, z))


def add_lesions(rows: Tensor, lesions: Lesions) -> Tensor:
    """Turn some of the white matter of a deformed label map into lesions.

    Parameters
    ----------
    rows : (x, y, z) uint8 tensor
        Rows of the generation table.
    lesions : Lesions

    Returns
    -------
    (x, y, z) uint8 tensor
    """
    lesion_row, ventricle, cortex, white = (table.to(rows.device) for table in _tables())
    index = rows.int()
    x, y, z = rows.shape
    field = interpolated(lesions.field, (x, y, z))
    for inside, weight in (
        (ventricle, lesions.periventricular),
        (cortex, lesions.juxtacortical),
    ):
        field.add_(_nearness(inside[index]), alpha=weight)
    # Indexing with a mask would wait for a GPU; sorting what lies outside to the front does not.
    field.masked_fill_(~white[index], -torch.inf)
    values = field.reshape(-1)[::EVERY].sort().values
    count = (values > -torch.inf).sum()
    last = len(values) - 1
    level = values[(last - count * lesions.share).long().clamp(0, last)]
    return torch.where(field > level, lesion_row[index], rows)
