"""Label maps on disk: reading them for training, writing synthetic scans."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..geometry import orientation, ras_affine, to_ras
from ..labels import channel_labels, generation_indices
from ..volume_io import read_label_map, write_image
from .generator import PRESETS, Draw, GeneratorConfig, apply, draw

logger = logging.getLogger(__name__)

SUFFIXES = ('.nii', '.nii.gz', '.mgz')


class LabelMapError(ValueError):
    """A label map, or a folder of them, cannot be used for training."""


@dataclass(frozen=True)
class LabelMap:
    """A label map ready for the generator.

    Attributes
    ----------
    name : str
        File name.
    indices : (x, y, z) uint8 tensor
        Rows of the generation table, in RAS orientation.
    affine : (4, 4) array
        Voxels of `indices` to world mm.
    spacing_mm : float
        Mean voxel size.
    centre : tuple of float
        Centre of the cerebrum in voxels.
    """

    name: str
    indices: Tensor
    affine: np.ndarray
    spacing_mm: float
    centre: tuple[float, float, float]


def find_label_maps(source: Path) -> list[Path]:
    """List the label maps of a folder or of a BIDS-derivatives data set.

    Parameters
    ----------
    source : Path
        A file, a folder of label maps, or a data set with ``*_dseg`` files in its subjects'
        ``anat`` folders.

    Returns
    -------
    list of Path
        Sorted.

    Raises
    ------
    LabelMapError
        If there are none.
    """
    if source.is_file():
        return [source]
    bids = [p for p in sorted(source.glob('sub-*/**/*_dseg.*')) if p.name.endswith(SUFFIXES)]
    found = bids or [p for p in sorted(source.glob('*')) if p.name.endswith(SUFFIXES)]
    if not found:
        raise LabelMapError(f'{source}: no label maps ({", ".join(SUFFIXES)}) found in it')
    return found


def load_label_map(path: Path) -> LabelMap:
    """Read a label map, reorient it to RAS and number its labels for the generator.

    Parameters
    ----------
    path : Path

    Returns
    -------
    LabelMap

    Raises
    ------
    LabelMapError
        If it holds no cerebrum.
    InputImageError
        If it cannot be read or is not a label map.
    LabelSchemeError
        If it holds labels the generator does not know.
    """
    volume = read_label_map(path)
    orient = orientation(volume.affine)
    values = to_ras(volume.data, orient)
    indices = generation_indices(values, str(path))
    cerebrum = np.isin(values, (2, 3, 41, 42))
    if not cerebrum.any():
        raise LabelMapError(f'{path}: holds no cerebrum (labels 2, 3, 41, 42)')
    sides = [np.flatnonzero(cerebrum.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    centre = tuple((float(side[0]) + float(side[-1])) / 2 for side in sides)
    return LabelMap(
        name=path.name,
        indices=torch.from_numpy(indices),
        affine=ras_affine(volume.affine, volume.shape, orient),
        spacing_mm=float(volume.spacing_mm.mean()),
        centre=(centre[0], centre[1], centre[2]),
    )


def generate(
    label_map: LabelMap, config: GeneratorConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Draw]:
    """Draw parameters and make a synthetic scan with them.

    Parameters
    ----------
    label_map : LabelMap
    config : GeneratorConfig
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    image : (x, y, z) float32 tensor
    target : (x, y, z) uint8 tensor
        Network channels.
    parameters : Draw
    """
    x, y, z = label_map.indices.shape
    parameters = draw(config, (x, y, z), generator, label_map.centre, label_map.spacing_mm)
    return *apply(label_map.indices, parameters, config), parameters


def synthesize(
    label_map: LabelMap, config: GeneratorConfig, seed: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Make one synthetic scan from a seed.

    Parameters
    ----------
    label_map : LabelMap
    config : GeneratorConfig
    seed : int

    Returns
    -------
    image : (x, y, z) float32 tensor
    target : (x, y, z) uint8 tensor
        Network channels.
    affine : (4, 4) array
        Of both.
    """
    image, target, parameters = generate(label_map, config, torch.Generator().manual_seed(seed))
    factor = config.downsampling
    # first voxel of the crop, then the centre of the first coarse voxel
    corner = np.array(parameters.start) + (factor - 1) / 2
    to_label_map = np.diag([factor, factor, factor, 1.0])
    to_label_map[:3, 3] = corner
    return image, target, label_map.affine @ to_label_map


def synthesize_files(
    label_maps: list[Path],
    out_dir: Path,
    count: int,
    preset: str = 'synthseg2023',
    seed: int = 0,
    size: int | None = 160,
    device: str = 'cpu',
) -> list[tuple[Path, Path]]:
    """Write synthetic scans and their label maps as NIfTI.

    Parameters
    ----------
    label_maps : list of Path
        Taken in turn at random.
    out_dir : Path
    count : int
    preset : str
        A key of :data:`~synthseg_bids.synth.generator.PRESETS`.
    seed : int
        Scan `i` depends on the seed and on `i` alone.
    size : int or None
        Side of the crop in voxels; None keeps the whole map.
    device : str

    Returns
    -------
    list of (Path, Path)
        Image and label map of each scan.
    """
    config = replace(PRESETS[preset], size=None if size is None else (size, size, size))
    values = np.array(channel_labels(), dtype=np.int16)
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for i in range(count):
        sample_seed = seed * 1_000_003 + i
        which = int(np.random.default_rng(sample_seed).integers(len(label_maps)))
        label_map = load_label_map(label_maps[which])
        label_map = replace(label_map, indices=label_map.indices.to(device))
        image, target, affine = synthesize(label_map, config, sample_seed)
        paths = out_dir / f'synth-{i:04d}_image.nii.gz', out_dir / f'synth-{i:04d}_dseg.nii.gz'
        write_image(paths[0], image.cpu().numpy(), affine)
        write_image(paths[1], values[target.cpu().numpy()], affine)
        logger.info('%s from %s', paths[0], label_map.name)
        written.append(paths)
    return written
