"""Training samples of the parcel network: deformed, blurred and damaged hemispheres.

A few people have to do for all. Each sample is a hemisphere of one of them, from its label map or
from a segmentation of its head, deformed strongly. The class maps then lose resolution along
random axes, and a random field favours one class over another, which moves the surfaces of the
cortex: it becomes thinner or thicker here and there, and sulci close.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..inference.hemispheres import LEFT_CLASSES, SPACING_MM, HemisphereGrid, hemisphere_input
from ..linear import apply_along_axes, interpolation_matrix
from ..synth.deform import Deformation, DeformationConfig, deform_labels, draw_deformation
from ..synth.resolution import Resolution, ResolutionConfig, acquire, draw_resolution
from ..synth.sampling import uniform
from .parcel_maps import CORTEX_CLASS, RADIX, ParcelMap

N_CLASSES = len(LEFT_CLASSES)
#: A label of each class, as names of the channels of one-hot maps.
NAMES = tuple(one[0] for one in LEFT_CLASSES)


@dataclass(frozen=True)
class ParcelSampleConfig:
    """Ranges of the augmentation.

    Attributes
    ----------
    deformation : DeformationConfig
        In voxels of 1 mm. Half of the samples are mirrored hemispheres in any case.
    resolution : ResolutionConfig
        Of the class maps.
    segmented : float
        Probability of a segmentation instead of the label map, if there are any.
    field_std : float
        Largest standard deviation of the logarithm of the field by which a class is favoured.
    field_mm : tuple of float
        Range of the distance of its nodes; log-uniform.
    points : int
        Cortex voxels that the loss is computed at.
    """

    deformation: DeformationConfig = field(
        default_factory=lambda: DeformationConfig(
            rotation_deg=20,
            scaling=0.15,
            shear=0.1,
            translation=0,
            svf_std=(0, 4),
            svf_fraction=0.05,
            svf_unit=2,
            field_step=8,
        )
    )
    resolution: ResolutionConfig = field(
        default_factory=lambda: ResolutionConfig(full_probability=0.5)
    )
    segmented: float = 0.6
    field_std: float = 1.0
    field_mm: tuple[float, float] = (4, 40)
    points: int = 16384


class ParcelDraw(NamedTuple):
    """What is drawn for one sample, but for noise and points."""

    side: str
    version: int
    deformation: Deformation
    resolution: Resolution
    field_std: Tensor
    field_mm: Tensor


class ParcelSample(NamedTuple):
    """A training sample.

    Attributes
    ----------
    maps : (1, 8, x, y, z) float32 tensor
        Input of the network.
    places : three (n,) float32 tensors
        Positions of cortex voxels, in voxels of the input.
    target : (n,) int64 tensor
        Their parcels, numbered from 0.
    """

    maps: Tensor
    places: list[Tensor]
    target: Tensor


def draw_parcel_sample(
    config: ParcelSampleConfig, person: ParcelMap, source: torch.Generator
) -> ParcelDraw:
    """Draw the parameters of a sample of a person."""
    right, other, which = torch.rand(3, generator=source).tolist()
    side = 'right' if right < 0.5 else 'left'
    codes = person.hemispheres[side]
    version = 1 + int(which * (len(codes) - 1)) if other < config.segmented else 0
    x, y, z = codes[0].shape
    low, high = config.field_mm
    return ParcelDraw(
        side,
        min(version, len(codes) - 1),
        draw_deformation(config.deformation, (x, y, z), source),
        draw_resolution(config.resolution, SPACING_MM, source),
        uniform((0, config.field_std), source, 1),
        low * (high / low) ** torch.rand(1, generator=source),
    )


def make_parcel_sample(
    config: ParcelSampleConfig,
    person: ParcelMap,
    draw: ParcelDraw,
    multiple: int,
    source: torch.Generator,
) -> ParcelSample:
    """Make a sample of drawn parameters.

    Parameters
    ----------
    config : ParcelSampleConfig
    person : ParcelMap
    draw : ParcelDraw
    multiple : int
        Sides of the input are multiples of it.
    source : torch.Generator
        Source of the field and of the points.
    """
    codes = person.hemispheres[draw.side][draw.version]
    x, y, z = codes.shape
    slabs = deform_labels(codes, draw.deformation, config.deformation, (0, 0, 0), (x, y, z))
    deformed = torch.cat(list(slabs))
    maps, grid = parcel_input(deformed, multiple)
    classes = torch.stack([acquire(one, draw.resolution) for one in maps[0, :N_CLASSES]])
    maps[0, :N_CLASSES] = favour(classes, draw.field_std, draw.field_mm, source)
    return ParcelSample(maps, *cortex_points(deformed, grid, config.points, source))


def parcel_input(codes: Tensor, multiple: int) -> tuple[Tensor, HemisphereGrid]:
    """Return the network's input for the codes of a hemisphere, and its grid.

    Parameters
    ----------
    codes : (x, y, z) uint8 tensor
        See :data:`.parcel_maps.RADIX`.
    multiple : int
    """
    classes = codes // RADIX
    one_hot = torch.stack([classes == number for number in range(1, N_CLASSES + 1)]).float()
    found = hemisphere_input(one_hot, NAMES, 'left', ParcelMap.spacing_mm, multiple)
    assert found is not None  # maps have both hemispheres, and deformations leave most of them
    return found


def favour(classes: Tensor, std: Tensor, node_mm: Tensor, source: torch.Generator) -> Tensor:
    """Multiply class maps by random smooth fields, so that borders move where classes mix.

    Parameters
    ----------
    classes : (5, x, y, z) tensor
        Probabilities; the rest is background.
    std, node_mm : (1,) tensor
        Standard deviation of the fields' logarithms, and distance of their nodes.
    source : torch.Generator

    Returns
    -------
    (5, x, y, z) tensor
    """
    shape = classes.shape[1:]
    nodes = [max(2, round(n * SPACING_MM / float(node_mm))) for n in shape]
    noise = std * torch.randn(len(classes) + 1, *nodes, generator=source)
    matrices = [
        interpolation_matrix(torch.linspace(0, small - 1, n), small)
        for n, small in zip(shape, nodes, strict=True)
    ]
    fields = apply_along_axes(noise, (matrices[0], matrices[1], matrices[2])).exp_()
    background = (1 - classes.sum(0, keepdim=True)).clamp_(min=0)
    favoured = torch.cat([classes, background]).mul_(fields)
    return (favoured / favoured.sum(0).clamp_(min=1e-6))[:-1]


def cortex_points(
    codes: Tensor, grid: HemisphereGrid, count: int, source: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Choose cortex voxels with a parcel.

    Parameters
    ----------
    codes : (x, y, z) uint8 tensor
    grid : HemisphereGrid
    count : int
        At most as many; 0 for all.
    source : torch.Generator

    Returns
    -------
    places : three (n,) float32 tensors
        Their positions, in voxels of the network's grid.
    target : (n,) int64 tensor
        Their parcels, numbered from 0.
    """
    where = (codes > CORTEX_CLASS * RADIX) & (codes < (CORTEX_CLASS + 1) * RADIX)
    index = where.flatten().nonzero()[:, 0]
    if count:
        index = index[torch.randint(len(index), (count,), generator=source)]
    target = codes.flatten()[index].long() - CORTEX_CLASS * RADIX - 1
    axes = torch.unravel_index(index, codes.shape)
    return [grid.located(axis.float(), i) for i, axis in enumerate(axes)], target
