"""Random artefacts: ghosts and truncated fields of view (not of the papers)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .sampling import uniform


@dataclass(frozen=True)
class ArtefactConfig:
    """Ranges of the artefacts.

    Attributes
    ----------
    ghost_probability : float
        Probability of a ghost: a faint copy of the image, shifted cyclically along an axis, as
        from motion or pulsation during the acquisition of k-space.
    ghost_share : tuple of float
        Its intensity as a share of the image's.
    cut_probability : float
        Probability that one end of one axis was not scanned and is background.
    cut_share : tuple of float
        Fraction of that axis.
    """

    ghost_probability: float = 0.1
    ghost_share: tuple[float, float] = (0, 0.15)
    cut_probability: float = 0.1
    cut_share: tuple[float, float] = (0, 0.3)


@dataclass(frozen=True)
class Ghost:
    """A ghost: share of the intensity, axis of the shift, and ratio of the axis to the shift."""

    share: float
    axis: int
    part: int


@dataclass(frozen=True)
class Artefacts:
    """The drawn artefacts of one scan.

    Attributes
    ----------
    ghost : Ghost or None
    cut : tuple of slice
        The part of the image that was scanned.
    """

    ghost: Ghost | None
    cut: tuple[slice, slice, slice]


def draw_artefacts(
    config: ArtefactConfig, size: tuple[int, int, int], generator: torch.Generator
) -> Artefacts:
    """Draw the artefacts of one scan.

    Parameters
    ----------
    config : ArtefactConfig
    size : tuple of int
        Size of the image.
    generator : torch.Generator

    Returns
    -------
    Artefacts
    """
    chance, cut, along, across, end = torch.rand(5, generator=generator).tolist()
    part = int(torch.randint(2, 5, (1,), generator=generator))
    ghost = Ghost(float(uniform(config.ghost_share, generator, 1)), int(along * 3), part)
    depth = float(uniform(config.cut_share, generator, 1))
    scanned = [slice(0, n) for n in size]
    if cut < config.cut_probability:
        axis = int(across * 3)
        missing = int(depth * size[axis])
        first = missing if end < 0.5 else 0
        scanned[axis] = slice(first, first + size[axis] - missing)
    return Artefacts(
        ghost=ghost if chance < config.ghost_probability else None,
        cut=(scanned[0], scanned[1], scanned[2]),
    )


def add_artefacts(image: Tensor, target: Tensor, artefacts: Artefacts) -> None:
    """Add artefacts to a scan in place; voxels outside the field of view become 0.

    Parameters
    ----------
    image : (x, y, z) float tensor
    target : (x, y, z) tensor
        Network channels; voxels outside the field of view become background.
    artefacts : Artefacts
    """
    ghost = artefacts.ghost
    if ghost is not None:
        moved = image.roll(image.shape[ghost.axis] // ghost.part, ghost.axis)
        image.add_(moved, alpha=ghost.share)
    unseen = torch.ones(image.shape, dtype=torch.bool, device=image.device)
    unseen[artefacts.cut] = False
    image.masked_fill_(unseen, 0)
    target.masked_fill_(unseen, 0)
