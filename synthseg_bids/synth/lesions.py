"""Random lesions of the white matter.

Lesions are the highest values of a smooth random field within the white matter. Terms added to the
field near the ventricles and the cortex make most of them periventricular (caps and bands) and
others juxtacortical (Fazekas 1987; Kim et al. 2008). Where lesions are a label, the cerebellar
white matter and the brainstem have some, too, as in multiple sclerosis (Filippi et al. 2019). Not
of the papers, whose label maps have only the few lesions that FreeSurfer found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..labels import LESION_OF, generation_labels
from .nearness import label_mask, nearness
from .sampling import uniform
from .texture import draw_field, interpolated

#: What may have lesions: white matter of the cerebrum; below the tentorium cerebellar white matter
#: and brainstem.
WHITE_MATTER = (2, 41)
INFRATENTORIAL = (7, 46, 16)
#: Lateral ventricles with their choroid plexus, and cortex.
LATERAL_VENTRICLES = (4, 43, 136, 163)
CORTEX = (3, 42)
#: The threshold of the field is computed from every n-th voxel.
EVERY = 7


@dataclass(frozen=True)
class LesionConfig:
    """Ranges of the lesions.

    Attributes
    ----------
    probability : float
        Probability that a scan has any.
    size_mm : tuple of float
        Spacing of the independent values of the field; log-uniform.
    share : tuple of float
        Fraction of the white matter; log-uniform. For 450 ml that is 0.4 to 45 ml.
    periventricular, juxtacortical : tuple of float
        Added to the field, of standard deviation 1, next to the ventricles and the cortex.
    infratentorial : tuple of float
        Added to the field in the cerebellum and the brainstem.
    """

    probability: float = 0.4
    size_mm: tuple[float, float] = (2.5, 10)
    share: tuple[float, float] = (0.001, 0.1)
    periventricular: tuple[float, float] = (0, 4)
    juxtacortical: tuple[float, float] = (-2, 1)
    infratentorial: tuple[float, float] = (-4, 1)


@dataclass(frozen=True)
class Lesions:
    """The drawn lesions of one scan; attributes as in :class:`LesionConfig`.

    Attributes
    ----------
    field : (i, j, k) tensor
        Standard normal values, before they are interpolated to the label map's grid.
    share, periventricular, juxtacortical, infratentorial : float
    """

    field: Tensor
    share: float
    periventricular: float
    juxtacortical: float
    infratentorial: float


def draw_lesions(
    config: LesionConfig, size: tuple[int, int, int], spacing_mm: float, generator: torch.Generator
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
        for bounds in (config.periventricular, config.juxtacortical, config.infratentorial)
    )
    return Lesions(field, share, *near) if chance < config.probability else None


@lru_cache(maxsize=4)
def _lesion_rows(device: torch.device) -> Tensor:
    """Return, per row of the generation table, the row of its lesions."""
    labels = generation_labels()
    row = {label.index: i for i, label in enumerate(labels)}
    lesion = [row[LESION_OF.get(label.index, label.index)] for label in labels]
    return torch.tensor(lesion, dtype=torch.uint8, device=device)


def add_lesions(rows: Tensor, lesions: Lesions, infratentorial: bool) -> Tensor:
    """Add lesions to the white matter of a deformed label map.

    Parameters
    ----------
    rows : (x, y, z) uint8 tensor
        Rows of the generation table.
    lesions : Lesions
    infratentorial : bool
        Whether the white matter of the cerebellum and the brainstem may have lesions, too.

    Returns
    -------
    (x, y, z) uint8 tensor
    """
    device, index = rows.device, rows.int()
    x, y, z = rows.shape
    field = interpolated(lesions.field, (x, y, z))
    field.add_(nearness(rows, LATERAL_VENTRICLES), alpha=lesions.periventricular)
    field.add_(nearness(rows, CORTEX), alpha=lesions.juxtacortical)
    # Indexing with a mask or with a number would wait for a GPU; sorting other voxels to the
    # front and gathering do not.
    white = label_mask(WHITE_MATTER, device)
    if infratentorial:
        below = label_mask(INFRATENTORIAL, device)
        field.add_(below[index].float(), alpha=lesions.infratentorial)
        white = white | below
    field.masked_fill_(~white[index], -torch.inf)
    values = field.reshape(-1)[::EVERY].sort().values
    count = (values > -torch.inf).sum()
    last = len(values) - 1
    level = values.gather(0, (last - count * lesions.share).long().clamp(0, last)[None])
    return torch.where(field > level, _lesion_rows(device)[index], rows)
