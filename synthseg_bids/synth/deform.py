"""Random spatial deformation: an affine transform and a diffeomorphism.

A voxel ``x`` of the synthetic scan takes its label from the training map at::

    phi(x) = A (x - c + u(x)) + c + t

where ``c`` is the centre of the map, ``A`` a random affine matrix, ``t`` a translation and ``u``
the displacement of a diffeomorphism: the integral of a stationary velocity field (SVF) by
scaling and squaring (MIDL 2020 paper, section 2.2). If the ventricles are resized
(:mod:`.ventricles`), it takes its label at ``phi(x) + w(phi(x))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..linear import apply_along_axes, interpolation_matrix
from .sampling import uniform

#: Scaling and squaring starts from v / 2**7 (reference implementation).
SQUARINGS = 7
#: Slices per slab on the CPU, so that temporaries stay in its cache.
CPU_SLAB = 8


@dataclass(frozen=True)
class DeformationConfig:
    """Ranges of the random deformation; lengths in voxels of the label map.

    Attributes
    ----------
    rotation_deg, scaling, shear, translation : float
        Half-widths of uniform distributions: angles around 0, factors around 1, shears and
        translations around 0.
    svf_std : tuple of float
        Range of the uniform distribution of the SVF's standard deviation, drawn per sample.
    svf_fraction : float
        Size of the grid of random velocities as a fraction of the label map's.
    svf_unit : float
        Voxels per unit of velocity *while integrating*. The paper integrates at full size (1);
        the reference implementation of 2023 integrates on the half-size grid and does not rescale
        the result (2).
    flip_probability : float
        Probability of a left/right flip with exchange of left and right labels.
    field_step : int
        The displacement is integrated on every n-th voxel and interpolated linearly: velocities
        vary over more than 20 voxels. With the paper's ranges, points differ from those for every
        second voxel by 0.06 voxels on average with 4, and by 0.2 with 8.
    """

    rotation_deg: float = 10
    scaling: float = 0.1
    shear: float = 0.01
    translation: float = 20
    svf_std: tuple[float, float] = (3, 3)
    svf_fraction: float = 10 / 256
    svf_unit: float = 1
    flip_probability: float = 0
    field_step: int = 4


@dataclass(frozen=True)
class Deformation:
    """One drawn deformation.

    Attributes
    ----------
    matrix : (3, 3) tensor
        Affine matrix A.
    translation : (3,) tensor
        In voxels.
    svf : (3, i, j, k) tensor
        Velocities on the coarse grid.
    flip : bool
        Whether left and right are exchanged.
    """

    matrix: Tensor
    translation: Tensor
    svf: Tensor
    flip: bool


def symmetric(generator: torch.Generator, half_width: float, *shape: int) -> Tensor:
    """Draw from U(-half_width, half_width)."""
    return (2 * torch.rand(*shape, generator=generator) - 1) * half_width


def draw_deformation(
    config: DeformationConfig, shape: tuple[int, int, int], generator: torch.Generator
) -> Deformation:
    """Draw the parameters of one deformation (MIDL 2020 paper, Table 1).

    Parameters
    ----------
    config : DeformationConfig
    shape : tuple of int
        Size of the label map in voxels.
    generator : torch.Generator

    Returns
    -------
    Deformation
    """
    matrix = affine_matrix(
        rotation_rad=symmetric(generator, math.radians(config.rotation_deg), 3),
        scaling=1 + symmetric(generator, config.scaling, 3),
        shear=symmetric(generator, config.shear, 3),
    )
    translation = symmetric(generator, config.translation, 3)
    std = uniform(config.svf_std, generator, 1)
    grid = [max(2, math.ceil(n * config.svf_fraction)) for n in shape]
    svf = std * torch.randn(3, *grid, generator=generator)
    flip = bool(torch.rand(1, generator=generator) < config.flip_probability)
    return Deformation(matrix, translation, svf, flip)


def moved(
    point: tuple[float, ...], deformation: Deformation, shape: tuple[int, int, int]
) -> list[float]:
    """Return the position of a point of the label map after the affine deformation.

    Parameters
    ----------
    point : tuple of float
        In voxels of the label map.
    deformation : Deformation
    shape : tuple of int
        Size of the label map.
    """
    centre = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    away = torch.tensor(point) - centre
    if deformation.flip:
        away[0] = -away[0]
    away = torch.linalg.solve(deformation.matrix, away - deformation.translation)
    return (centre + away).tolist()


def affine_matrix(rotation_rad: Tensor, scaling: Tensor, shear: Tensor) -> Tensor:
    """Compose ``A = scaling * shear * rotation`` from three parameters each.

    Parameters
    ----------
    rotation_rad, scaling, shear : (3,) tensor
        Angles about x, y, z; factors along x, y, z; shears xy, xz, yz.

    Returns
    -------
    (3, 3) tensor
    """
    (cx, cy, cz), (sx, sy, sz) = torch.cos(rotation_rad).tolist(), torch.sin(rotation_rad).tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    sheared = torch.eye(3)
    sheared[0, 1], sheared[0, 2], sheared[1, 2] = shear.tolist()
    return torch.diag(scaling) @ sheared @ about_x @ about_y @ about_z


def integrate(velocity: Tensor) -> Tensor:
    """Integrate a stationary velocity field by scaling and squaring.

    Parameters
    ----------
    velocity : (3, x, y, z) tensor
        In voxels of its own grid.

    Returns
    -------
    (3, x, y, z) tensor
        Displacement u of the map x -> x + u(x), in voxels of the same grid.
    """
    axes = [torch.arange(n, device=velocity.device) for n in velocity.shape[1:]]
    identity = torch.stack(torch.meshgrid(*axes, indexing='ij')).to(velocity)
    displacement = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        displacement = displacement + sample(displacement, identity + displacement)
    return displacement


def sample(field: Tensor, places: Tensor) -> Tensor:
    """Interpolate a field linearly; outside, its edge is repeated.

    Parameters
    ----------
    field : (c, i, j, k) tensor
    places : (3, x, y, z) tensor
        In voxels of the field.

    Returns
    -------
    (c, x, y, z) tensor
    """
    # grid_sample wants positions in [-1, 1], last axis first
    scales = [2 / max(n - 1, 1) for n in field.shape[1:]]
    scaled = [place * scale - 1 for place, scale in zip(places, scales, strict=True)]
    where = torch.stack(scaled[::-1]).permute(1, 2, 3, 0)[None]
    return functional.grid_sample(field[None], where, padding_mode='border', align_corners=True)[0]


def location_field(
    deformation: Deformation, config: DeformationConfig, shape: tuple[int, int, int]
) -> Tensor:
    """Evaluate phi on every `field_step`-th voxel of the label map.

    Parameters
    ----------
    deformation : Deformation
    config : DeformationConfig
    shape : tuple of int
        Size of the label map.

    Returns
    -------
    (3, i, j, k) tensor
        Positions in voxels of the label map, at voxels 0, step, 2 step, ... up to its last voxel
        or beyond.
    """
    svf, step = deformation.svf, config.field_step
    nodes = [torch.arange(math.ceil((n - 1) / step) + 1, device=svf.device) * step for n in shape]
    # The reference resizes fields with node i at i * large / small (corner anchored, clamped).
    resize = [
        interpolation_matrix(p * (g / n), g)
        for p, g, n in zip(nodes, svf.shape[1:], shape, strict=True)
    ]
    unit = config.svf_unit / step
    displacement = integrate(apply_along_axes(svf, (resize[0], resize[1], resize[2])) * unit)
    displacement = displacement / unit
    points = torch.stack(torch.meshgrid(*(p.to(svf) for p in nodes), indexing='ij'))
    centre = torch.stack([svf.new_full((), (n - 1) / 2) for n in shape])
    moved = (points + displacement - centre[:, None, None, None]).reshape(3, -1)
    offset = (centre + deformation.translation.to(svf))[:, None]
    located = (deformation.matrix.to(svf) @ moved + offset).reshape(points.shape)
    if deformation.flip:
        located[0] = shape[0] - 1 - located[0]
    return located


def _locate(
    shape: tuple[int, ...],
    deformation: Deformation,
    config: DeformationConfig,
    start: tuple[int, int, int],
    size: tuple[int, int, int],
    multiple: int = 1,
    moves: Tensor | None = None,
) -> Iterator[Tensor]:
    """Evaluate phi on every voxel of a crop; yields slabs along x, ``(slab, 3, y, z)``."""
    field = location_field(deformation, config, (shape[0], shape[1], shape[2]))
    if moves is not None:
        field += sample(moves, field / config.field_step)
    weights = [
        interpolation_matrix((torch.arange(n, device=field.device) + s) / config.field_step, g)
        for n, s, g in zip(size, start, field.shape[1:], strict=True)
    ]
    field = weights[1] @ (field @ weights[2].T)
    rows = field.permute(1, 0, 2, 3).reshape(field.shape[1], -1)
    slab = multiple * max(1, CPU_SLAB // multiple) if field.device.type == 'cpu' else size[0]
    for first in range(0, size[0], slab):
        yield (weights[0][first : first + slab] @ rows).reshape(-1, 3, size[1], size[2])


def deform_labels(
    label_map: Tensor,
    deformation: Deformation,
    config: DeformationConfig,
    start: tuple[int, int, int],
    size: tuple[int, int, int],
    multiple: int = 1,
    moves: Tensor | None = None,
) -> Iterator[Tensor]:
    """Sample a label map at phi, nearest neighbour, slab by slab along x.

    Parameters
    ----------
    label_map : (x, y, z) uint8 tensor
        In RAS orientation.
    deformation : Deformation
        On the label map's device.
    config : DeformationConfig
    start, size : tuple of int
        First voxel and size of the crop to produce, in voxels of the label map's grid.
    multiple : int
        Slabs have a thickness that is a multiple of it, as the crop has.
    moves : (3, i, j, k) tensor, optional
        Displacement w on every `field_step`-th voxel of the label map.

    Yields
    ------
    (slab, size[1], size[2]) uint8 tensor
        Consecutive slabs; outside the map its edge is repeated, as in the reference.
    """
    shape = label_map.shape
    flat = label_map.reshape(-1)
    for place in _locate(shape, deformation, config, start, size, multiple, moves):
        located = place.round_().to(torch.int32)
        index = located[:, 0].clamp_(0, shape[0] - 1)
        for axis in (1, 2):
            index = index * shape[axis] + located[:, axis].clamp_(0, shape[axis] - 1)
        yield flat[index]


def deform_image(
    image: Tensor,
    deformation: Deformation,
    config: DeformationConfig,
    start: tuple[int, int, int],
    size: tuple[int, int, int],
    moves: Tensor | None = None,
) -> Tensor:
    """Sample an image at phi, linearly.

    Parameters
    ----------
    image : (x, y, z) float tensor
    deformation, config, start, size, moves
        See :func:`deform_labels`.

    Returns
    -------
    size tensor
        Outside the image its edge is repeated.
    """
    slabs = [
        sample(image[None], place.transpose(0, 1))[0]
        for place in _locate(image.shape, deformation, config, start, size, moves=moves)
    ]
    return torch.cat(slabs)
