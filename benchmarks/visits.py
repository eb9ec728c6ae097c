"""Generated visits of one head, whose hippocampi shrink and whose ventricles grow."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from synthseg_bids.images.geometry import bounding_box, widen_box
from synthseg_bids.labels import generation_labels, segmentation_labels
from synthseg_bids.linear import apply_along_axes, interpolation_matrix
from synthseg_bids.synth.deform import (
    Deformation,
    DeformationConfig,
    affine_matrix,
    deform_labels,
    integrate,
    symmetric,
)
from synthseg_bids.synth.generator import label_tables
from synthseg_bids.synth.label_maps import LabelMap, load_label_map
from synthseg_bids.synth.parameters import GeneratorConfig, draw
from synthseg_bids.synth.presets import PRESETS

HIPPOCAMPI, VENTRICLES = (17, 53), (4, 43)
#: Spacing of the nodes of the displacement field, and blur of the masks, in voxels.
STEP, BLUR = 2, 4.0
#: Head movements between visits: rotations about each axis and translations.
MOST_DEGREES, MOST_MM = 8.0, 8.0
STILL = DeformationConfig(
    rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0), field_step=STEP
)
#: Scans of 1 mm of real sequences, with noise and bias, of heads without lesions. Textures, and
#: intensities that are cut off, would differ between visits as those of a head do not.
CONFIG = replace(
    PRESETS['synthseg-bids'],
    crop_jitter=0,
    deformation=STILL,
    ventricles=None,
    intensity=replace(
        PRESETS['synthseg-bids'].intensity,
        realistic_probability=1,
        bias_std=(0.1, 0.3),
        clip=(0, math.inf),
    ),
    blur=(0.4, 0.4),
    resolution=None,
    noise=replace(PRESETS['synthseg-bids'].noise, probability=1, std=(3, 10)),
    lesions=None,
    texture=None,
    artefacts=None,
    skull_strip_probability=0,
    no_csf_probability=0,
    rescale=False,
)
#: A scanner averages over its voxels: the mean of four points in each, in units of their quarter.
CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


@dataclass(frozen=True)
class Visit:
    """A scan of one visit.

    Attributes
    ----------
    image : (x, y, z) float32 array
    affine : (4, 4) array
    volumes : dict of int to float
        True volumes in mm^3.
    """

    image: np.ndarray
    affine: np.ndarray
    volumes: dict[int, float]


def load_head(path: Path, margin: int = 24) -> LabelMap:
    """Read a label map without what lies far from the brain."""
    label_map = load_label_map(path)
    brain = torch.tensor([bool(label.index) for label in segmentation_labels()])
    inside = brain[label_tables()[0][label_map.indices.int()].int()]
    box = widen_box(bounding_box(inside.numpy()) or (), margin, label_map.indices.shape)
    start = [part.start for part in box]
    affine = label_map.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    x, y, z = (c - s for c, s in zip(label_map.centre, start, strict=True))
    indices = label_map.indices[box].contiguous()
    return replace(label_map, indices=indices, affine=affine, centre=(x, y, z))


def _mask(label_map: LabelMap, labels: Collection[int]) -> Tensor:
    rows = torch.tensor([label.index in labels for label in generation_labels()])
    return rows[label_map.indices.int()]


def _velocity(label_map: LabelMap, labels: Collection[int]) -> Tensor:
    """Return a velocity field that points into structures, at most 1 voxel, on the nodes."""
    inside = _mask(label_map, labels).numpy().astype(np.float32)
    soft = torch.from_numpy(ndimage.gaussian_filter(inside, BLUR))
    slope = torch.stack(torch.gradient(soft))
    return slope[:, ::STEP, ::STEP, ::STEP] / slope.norm(dim=0).max()


def _shares(label_map: LabelMap, moves: Tensor) -> np.ndarray:
    """Return by how much the volume around each voxel changes: 1 where nothing moves."""
    a, b, c = _slopes(moves / STEP)
    # The volume of a voxel is one over the determinant of the Jacobian of x -> x + w(x).
    determinant = (
        (1 + a[0]) * ((1 + b[1]) * (1 + c[2]) - b[2] * c[1])
        - a[1] * (b[0] * (1 + c[2]) - b[2] * c[0])
        + a[2] * (b[0] * c[1] - (1 + b[1]) * c[0])
    )
    x, y, z = (
        interpolation_matrix(torch.arange(n) / STEP, g)
        for n, g in zip(label_map.indices.shape, moves.shape[1:], strict=True)
    )
    return apply_along_axes(1 / determinant, (x, y, z)).numpy()


def _slopes(moves: Tensor) -> list[tuple[Tensor, ...]]:
    return [torch.gradient(field) for field in moves]


def atrophy(label_map: LabelMap, share: float) -> tuple[Tensor, dict[int, float]]:
    """Shrink the hippocampi and grow the lateral ventricles.

    Parameters
    ----------
    label_map : LabelMap
    share : float
        By which the volumes of both change, such as 0.02.

    Returns
    -------
    moves : (3, i, j, k) tensor
        Displacement from the changed anatomy to the label map, on every second voxel.
    volumes : dict of int to float
        Volumes in mm^3 of all labels of the changed anatomy.
    """
    velocity = torch.zeros(3, *(math.ceil(n / STEP) for n in label_map.indices.shape))
    small = 0.05
    for labels, wanted in ((HIPPOCAMPI, -share), (VENTRICLES, share)) if share else ():
        one = _velocity(label_map, labels)
        changed = _shares(label_map, integrate(one * small / STEP) * STEP)
        slope = (float(changed[_mask(label_map, labels).numpy()].mean()) - 1) / small
        velocity += one * wanted / slope
    moves = integrate(velocity / STEP) * STEP if share else velocity
    changed = _shares(label_map, moves) * label_map.spacing_mm**3
    rows = label_map.indices.numpy().ravel()
    sums = np.bincount(rows, changed.ravel(), len(generation_labels()))
    volumes: dict[int, float] = {}
    for label, volume in zip(generation_labels(), sums, strict=True):
        volumes[label.index] = volumes.get(label.index, 0.0) + float(volume)
    return moves, volumes


def make_visit(
    label_map: LabelMap,
    share: float,
    contrast: int,
    seed: int,
    config: GeneratorConfig = CONFIG,
) -> Visit:
    """Scan a head with atrophy, moved at random.

    Parameters
    ----------
    label_map : LabelMap
    share : float
        See :func:`atrophy`.
    contrast : int
        Seed of the contrast.
    seed : int
        Seed of all else: position, noise, bias.
    config : GeneratorConfig
    """
    moves, volumes = atrophy(label_map, share)
    x, y, z = label_map.indices.shape
    source = torch.Generator().manual_seed(seed)
    turns = affine_matrix(
        symmetric(source, math.radians(MOST_DEGREES), 3), torch.ones(3), torch.zeros(3)
    )
    places = symmetric(source, MOST_MM, 3)
    parameters = draw(config, (x, y, z), source, label_map.centre, label_map.spacing_mm)
    other = draw(config, (x, y, z), torch.Generator().manual_seed(contrast))
    intensities = replace(other.intensities, log_bias=parameters.intensities.log_bias)
    parameters = replace(parameters, intensities=intensities)
    images = []
    for corner in CORNERS:
        shift = places + turns @ (torch.tensor(corner) / 4)
        motion = Deformation(turns, shift, torch.zeros(3, 2, 2, 2), flip=False)
        slabs = deform_labels(label_map.indices, motion, STILL, (0, 0, 0), (x, y, z), moves=moves)
        moved = replace(label_map, indices=torch.cat([*slabs]))
        images.append(moved.make(parameters, config)[0].numpy())
    image = np.mean(images, axis=0)
    affine = label_map.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ parameters.start
    return Visit(image, affine, volumes)
