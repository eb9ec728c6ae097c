"""Anatomies that the label maps lack: wide and narrow ventricles, brains that have shrunk.

Random velocities (:mod:`.deform`) know nothing of what they move, and hardly ever do what age and
disease do. Here borders of the ventricles and of the brain are moved outwards or inwards as a
whole, before everything else. This is our own, not of the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import CSF, generation_labels
from ..linear import apply_along_axes, blur_matrix
from .deform import integrate
from .draws import between

#: Lateral, inferior lateral, third and fifth ventricles, choroid plexus (FreeSurfer's numbers).
VENTRICLES = (4, 5, 43, 44, 14, 72, 136, 137, 163, 164)
#: Standard deviation of the blur whose gradient shows where a border is, in nodes.
BLUR = 1.0


@dataclass(frozen=True)
class AnatomyConfig:
    """Ranges of the movements; lengths in voxels of the label map, outwards.

    Attributes
    ----------
    probability : float
        Chance that the borders move.
    ventricles, brain : tuple of float
        How far they move where they move most. Held-out ventricles of 10 ml had 20 with 6 and 40
        with 14, a brain 12 % less with -4.
    """

    probability: float = 0.4
    ventricles: tuple[float, float] = (-2, 14)
    brain: tuple[float, float] = (-4, 1)


@dataclass(frozen=True)
class Anatomy:
    """One drawn change of the anatomy: how far each border moves, in voxels."""

    ventricles: float
    brain: float


def draw_anatomy(config: AnatomyConfig, generator: torch.Generator) -> Anatomy | None:
    """Draw how far borders move, or None if they stay.

    Parameters
    ----------
    config : AnatomyConfig
    generator : torch.Generator

    Returns
    -------
    Anatomy or None
    """
    chance = float(torch.rand(1, generator=generator))
    ventricles = float(between(config.ventricles, generator, 1))
    brain = float(between(config.brain, generator, 1))
    return Anatomy(ventricles, brain) if chance < config.probability else None


@lru_cache(maxsize=1)
def _structure_tables() -> Tensor:
    """Whether each generation label is of the ventricles, and whether it is of the brain."""
    labels = generation_labels()
    ventricles = [label.index in VENTRICLES for label in labels]
    brain = [not label.extracerebral and label.index not in (0, CSF) for label in labels]
    return torch.tensor([ventricles, brain])


def growth(label_map: Tensor, anatomy: Anatomy | None, step: int) -> Tensor | None:
    """Return where borders come from when structures grow or shrink.

    The velocity of a point is along the gradient of each structure's blurred mask, so that it is
    greatest on the structure's border and vanishes far from it.

    Parameters
    ----------
    label_map : (x, y, z) uint8 tensor
        Rows of the generation table.
    anatomy : Anatomy or None
    step : int
        Distance of the nodes, in voxels.

    Returns
    -------
    (3, i, j, k) tensor or None
        Displacement w of the map y -> y + w(y) from places of the new anatomy to those of the
        label map, in voxels, at voxels 0, step, 2 step, ... None without another anatomy.
    """
    if anatomy is None:
        return None
    # Four voxels along each axis are enough to tell a node's shares.
    sparse = max(1, step // 4)
    index, parts = label_map[::sparse, ::sparse, ::sparse].int(), []
    for table, far in zip(_structure_tables(), (anatomy.ventricles, anatomy.brain), strict=True):
        share = _share(index, table, step // sparse)
        blurs = [blur_matrix(n, BLUR) for n in share.shape]
        slope = torch.stack(
            torch.gradient(apply_along_axes(share, (blurs[0], blurs[1], blurs[2])))
        )
        steepest = slope.norm(dim=0).max().clamp_min(torch.finfo(slope.dtype).tiny)
        # What a border that moves outwards leaves behind comes from within.
        parts.append(slope * (far / step / steepest))
    return integrate(parts[0] + parts[1]) * step


def _share(index: Tensor, table: Tensor, step: int) -> Tensor:
    """Return the share of the voxels around every node that a structure has."""
    inside = table.to(index.device)[index].float()[None, None]
    return functional.avg_pool3d(inside, step, padding=step // 2, ceil_mode=True)[0, 0]
