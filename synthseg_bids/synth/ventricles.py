"""Ventricles wider or narrower than those of the label maps.

Random velocities (:mod:`.deform`) know nothing of what they move, and do not make what age and
disease make of the ventricles. Here their border is moved as a whole, before everything else, and
what is around them with it. This is our own, not of the papers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import generation_labels
from ..linear import apply_along_axes, blur_matrix
from .deform import integrate
from .sampling import uniform

#: Lateral, inferior lateral, third and fifth ventricles, choroid plexus (FreeSurfer's numbers).
VENTRICLES = (4, 5, 43, 44, 14, 72, 136, 137, 163, 164)
#: Standard deviation of the blur whose gradient shows where the border is, in voxels.
BLUR = 8.0
#: Of the share of ventricles, per node: less is rounding.
FLAT = 1e-3


@dataclass(frozen=True)
class VentricleConfig:
    """Ranges of the movement.

    Attributes
    ----------
    probability : float
        Chance that the border moves.
    growth : tuple of float
        Its outward velocity where that is highest, in voxels of the label map. Lateral ventricles
        of the held-out label maps (1 mm; 8 to 80 ml) get 0.6 times their volume with -4, 1.5 to
        1.7 times with 4 and 2.2 to 3.1 times with 10.
    """

    probability: float = 0.4
    growth: tuple[float, float] = (-4, 10)


def draw_growth(config: VentricleConfig, generator: torch.Generator) -> float:
    """Draw how fast the ventricles grow; 0 if they do not.

    Parameters
    ----------
    config : VentricleConfig
    generator : torch.Generator

    Returns
    -------
    float
        In voxels.
    """
    chance = float(torch.rand(1, generator=generator))
    growth = float(uniform(config.growth, generator, 1))
    return growth if chance < config.probability else 0.0


@lru_cache(maxsize=1)
def _in_ventricles() -> Tensor:
    """Whether each generation label is of the ventricles."""
    return torch.tensor([label.index in VENTRICLES for label in generation_labels()])


def grow_ventricles(label_map: Tensor, growth: float, step: int) -> Tensor | None:
    """Return where tissue comes from when the ventricles grow or shrink.

    The velocity of a point is along the gradient of the ventricles' blurred mask, so that it is
    greatest on their border and vanishes far from it.

    Parameters
    ----------
    label_map : (x, y, z) uint8 tensor
        Rows of the generation table.
    growth : float
        In voxels.
    step : int
        Distance of the nodes, in voxels.

    Returns
    -------
    (3, i, j, k) tensor or None
        Displacement w of the map y -> y + w(y) from places in the scan's anatomy to those of
        the label map, in voxels, at voxels 0, step, 2 step, ... None if they stay.
    """
    if not growth:
        return None
    share = _share(label_map, step)
    blurs = [blur_matrix(n, BLUR / step) for n in share.shape]
    slope = torch.stack(torch.gradient(apply_along_axes(share, (blurs[0], blurs[1], blurs[2]))))
    # What a border that moves outwards leaves behind comes from within.
    steepest = slope.norm(dim=0).max().clamp_min(FLAT)
    return integrate(slope * (growth / step / steepest)) * step


def _share(label_map: Tensor, step: int) -> Tensor:
    """Return the share of the voxels around every node that are of the ventricles."""
    # About four of them along each axis are enough.
    sparse = math.gcd(step, max(1, step // 4))
    index, step = label_map[::sparse, ::sparse, ::sparse].int(), step // sparse
    inside = _in_ventricles().to(index.device)[index].float()[None, None]
    # As many on either side of a node; none beyond the map.
    return functional.avg_pool3d(
        inside, step | 1, step, step // 2, ceil_mode=True, count_include_pad=False
    )[0, 0]
