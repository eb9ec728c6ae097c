"""Random dilation or shrinkage of the ventricles (not of the papers).

Random velocity fields (:mod:`.deform`) are independent of the anatomy and do not produce the
ventricles of age and disease. Here their whole border is displaced before all other steps, and the
surrounding tissue with it.
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
#: Standard deviation of the blur of the ventricles' mask, in voxels.
BLUR = 8.0
#: Gradient of the blurred mask, per node, below which it is rounding error.
FLAT = 1e-3


@dataclass(frozen=True)
class VentricleConfig:
    """Ranges of the movement.

    Attributes
    ----------
    probability : float
        Probability that the border moves.
    growth : tuple of float
        Its largest outward velocity, in voxels of the label map. The volume of the lateral
        ventricles of held-out label maps (1 mm; 8 to 80 ml) changes by a factor of 0.6 with -4,
        1.5 to 1.7 with 4 and 2.2 to 3.1 with 10.
    """

    probability: float = 0.4
    growth: tuple[float, float] = (-4, 10)


def draw_growth(config: VentricleConfig, generator: torch.Generator) -> float:
    """Draw the velocity of the ventricles' growth; 0 if they do not grow.

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


@lru_cache(maxsize=4)
def _in_ventricles(device: torch.device) -> Tensor:
    """Return, per generation label, whether it belongs to the ventricles."""
    inside = [label.index in VENTRICLES for label in generation_labels()]
    return torch.tensor(inside, device=device)


def grow_ventricles(label_map: Tensor, growth: float, step: int) -> Tensor | None:
    """Return the displacement field of growing or shrinking ventricles.

    The velocity is along the gradient of the ventricles' blurred mask: largest on their border,
    zero far from it.

    Parameters
    ----------
    label_map : (x, y, z) uint8 tensor
        Rows of the generation table.
    growth : float
        In voxels.
    step : int
        Spacing of the nodes, in voxels.

    Returns
    -------
    (3, i, j, k) tensor or None
        Displacement w of the map y -> y + w(y) from the scan's anatomy to the label map, in
        voxels, at voxels 0, step, 2 step, ... None without growth.
    """
    if not growth:
        return None
    share = _share(label_map, step)
    blurs = [blur_matrix(n, BLUR / step, share.device) for n in share.shape]
    slope = torch.stack(torch.gradient(apply_along_axes(share, (blurs[0], blurs[1], blurs[2]))))
    # The map is from the grown to the original anatomy, hence along the gradient, inwards.
    steepest = slope.norm(dim=0).max().clamp_min(FLAT)
    return integrate(slope * (growth / step / steepest)) * step


def _share(label_map: Tensor, step: int) -> Tensor:
    """Return the fraction of voxels around every node that belong to the ventricles."""
    # About four voxels along each axis are enough.
    sparse = math.gcd(step, max(1, step // 4))
    index, step = label_map[::sparse, ::sparse, ::sparse].int(), step // sparse
    inside = _in_ventricles(index.device)[index].float()[None, None]
    # Centred on the nodes, without voxels outside the map.
    return functional.avg_pool3d(
        inside, step | 1, step, step // 2, ceil_mode=True, count_include_pad=False
    )[0, 0]
