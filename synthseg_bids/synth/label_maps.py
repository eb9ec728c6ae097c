"""Read label maps for training, and write synthetic scans."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..files import read_text
from ..images.geometry import orientation, to_ras
from ..images.volume_io import read_label_map, write_image
from ..labels import generation_indices, network_labels
from .generator import OnStep, apply
from .parameters import Draw, GeneratorConfig, draw

logger = logging.getLogger(__name__)

SUFFIXES = ('.nii', '.nii.gz', '.mgz')
#: Age group of label maps without a sidecar.
ADULT = 'adult'


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
        Maps voxels of `indices` to world mm.
    spacing_mm : float
        Mean voxel size.
    centre : tuple of float
        Centre of the cerebrum in voxels.
    age_group : str
        Such as ``adult`` or ``infant``.
    merged : tuple of tuple of int
        Groups of segmentation labels that the map does not distinguish; voxels have the first
        label of their group.
    kind : str
        Name of this kind of training data in model cards.
    """

    kind: ClassVar[str] = 'label_maps'

    name: str
    indices: Tensor
    affine: np.ndarray
    spacing_mm: float
    centre: tuple[float, float, float]
    age_group: str = field(default=ADULT, kw_only=True)
    merged: tuple[tuple[int, ...], ...] = field(default=(), kw_only=True)

    def to(self, device: torch.device | str) -> LabelMap:
        """Move to a device."""
        return replace(self, indices=self.indices.to(device))

    def make(
        self, parameters: Draw, config: GeneratorConfig, on_step: OnStep | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make a scan and its target; see :func:`~synthseg_bids.synth.generator.apply`."""
        return apply(self.indices, parameters, config, on_step=on_step)


def is_named(path: str | Path, parts: Sequence[str]) -> bool:
    """Return whether a file's name, without its folders, contains one of some parts."""
    return any(part in Path(path).name for part in parts)


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


def load_label_map(path: Path, size: Sequence[int] | None = None) -> LabelMap:
    """Read a label map, reorient it to RAS and convert it to rows of the generation table.

    Parameters
    ----------
    path : Path
    size : sequence of int, optional
        Pad with background to at least this size, so that crops of all maps have one size.

    Returns
    -------
    LabelMap

    Raises
    ------
    LabelMapError
        If it has no cerebrum, or its voxels are not isotropic.
    InputImageError
        If it cannot be read or is not a label map.
    LabelSchemeError
        If it has labels that the generator does not know.
    """
    volume = read_label_map(path)
    if volume.spacing_mm.max() > 1.01 * volume.spacing_mm.min():
        spacing = ' x '.join(f'{mm:g}' for mm in volume.spacing_mm)
        raise LabelMapError(f'{path}: voxels of {spacing} mm; resample it to isotropic ones')
    orient = orientation(volume.affine)
    values, affine = padded(to_ras(volume.data, orient), volume.grid.in_ras().affine, size)
    indices = generation_indices(values, str(path))
    return LabelMap(
        name=path.name,
        indices=torch.from_numpy(np.ascontiguousarray(indices)),
        affine=affine,
        spacing_mm=float(volume.spacing_mm.mean()),
        centre=cerebrum_centre(values, str(path)),
        **_sidecar(path),
    )


def _sidecar(path: Path) -> dict[str, Any]:
    """Return age group and merged labels from a label map's JSON file, if it has one."""
    sidecar = path.with_name(f'{path.name.partition(".")[0]}.json')
    if not sidecar.exists():
        return {}
    try:
        content = json.loads(read_text(sidecar))
        merged = content.get('MergedLabels', [])
        groups = [tuple(int(label) for label in group) for group in merged]
        known = set(network_labels(lesions=True))
        wrong = sorted({label for group in groups for label in group} - known)
        if wrong or any(len(group) < 2 for group in groups):
            raise ValueError(f'MergedLabels: {wrong or groups} are not groups of our labels')
        return {'age_group': str(content.get('AgeGroup', ADULT)), 'merged': tuple(groups)}
    except (ValueError, TypeError, AttributeError) as error:
        raise LabelMapError(f'{sidecar}: not a sidecar of a label map ({error})') from error


def padded(
    volume: np.ndarray, affine: np.ndarray, size: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pad a volume with zeros on all sides to at least a size; also return its new affine."""
    missing = [max(w - n, 0) for n, w in zip(volume.shape, size or volume.shape, strict=True)]
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [m // 2 for m in missing]
    return np.pad(volume, [(m // 2, m - m // 2) for m in missing]), affine


def cerebrum_centre(labels: np.ndarray, source: str) -> tuple[float, float, float]:
    """Return the centre of the cerebrum's bounding box in voxels.

    Raises
    ------
    LabelMapError
        If there is no cerebrum; the message begins with `source`.
    """
    cerebrum = np.isin(labels, (2, 3, 41, 42))
    if not cerebrum.any():
        raise LabelMapError(f'{source}: holds no cerebrum (labels 2, 3, 41, 42)')
    x, y, z = (np.flatnonzero(cerebrum.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    return (float(x[0] + x[-1]) / 2, float(y[0] + y[-1]) / 2, float(z[0] + z[-1]) / 2)


def generate(
    label_map: LabelMap,
    config: GeneratorConfig,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor, Draw]:
    """Draw parameters and make a synthetic scan with them.

    Parameters
    ----------
    label_map : LabelMap
    config : GeneratorConfig
    generator : torch.Generator
        On the CPU.
    on_step : callable, optional
        See :func:`~synthseg_bids.synth.generator.apply`.

    Returns
    -------
    image : (x, y, z) float32 tensor
    target : (x, y, z) uint8 tensor
        Network channels.
    parameters : Draw
    """
    x, y, z = label_map.indices.shape
    parameters = draw(config, (x, y, z), generator, label_map.centre, label_map.spacing_mm)
    return *label_map.make(parameters, config, on_step), parameters


def synthesize(
    label_map: LabelMap, config: GeneratorConfig, seed: int, on_step: OnStep | None = None
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Make one synthetic scan from a seed.

    Parameters
    ----------
    label_map : LabelMap
    config : GeneratorConfig
    seed : int
    on_step : callable, optional
        See :func:`~synthseg_bids.synth.generator.apply`.

    Returns
    -------
    image : (x, y, z) float32 tensor
    target : (x, y, z) uint8 tensor
        Network channels.
    affine : (4, 4) array
        Affine of both.
    """
    source = torch.Generator().manual_seed(seed)
    image, target, parameters = generate(label_map, config, source, on_step)
    factor = config.downsampling
    # first voxel of the crop, then the centre of the first coarse voxel
    corner = np.array(parameters.start) + (factor - 1) / 2
    to_label_map = np.diag([factor, factor, factor, 1.0])
    to_label_map[:3, 3] = corner
    return image, target, label_map.affine @ to_label_map


def _keep(steps: dict[str, np.ndarray], name: str, result: Tensor) -> None:
    steps[name] = result.cpu().numpy().copy()


def synthesize_files(
    label_maps: list[Path],
    out_dir: Path,
    count: int,
    config: GeneratorConfig,
    seed: int = 0,
    device: str | torch.device = 'cpu',
    on_scan: Callable[[Path, Mapping[str, np.ndarray]], None] | None = None,
) -> list[tuple[Path, Path]]:
    """Write synthetic scans and their label maps as NIfTI.

    Parameters
    ----------
    label_maps : list of Path
        One is drawn at random for each scan.
    out_dir : Path
    count : int
    config : GeneratorConfig
    seed : int
        Scan `i` depends only on the seed and on `i`.
    device : str or torch.device
    on_scan : callable, optional
        Called with each scan's path and its intermediate results by name.

    Returns
    -------
    list of (Path, Path)
        Image and label map of each scan.
    """
    values = np.array(network_labels(config.lesion_label), dtype=np.int16)
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for i in range(count):
        sample_seed = seed * 1_000_003 + i
        which = int(np.random.default_rng(sample_seed).integers(len(label_maps)))
        label_map = load_label_map(label_maps[which]).to(device)
        steps: dict[str, np.ndarray] = {}
        keep = partial(_keep, steps) if on_scan else None
        image, target, affine = synthesize(label_map, config, sample_seed, keep)
        paths = out_dir / f'synth-{i:04d}_image.nii.gz', out_dir / f'synth-{i:04d}_dseg.nii.gz'
        write_image(paths[0], image.cpu().numpy(), affine)
        write_image(paths[1], values[target.cpu().numpy()], affine)
        logger.info('%s from %s', paths[0], label_map.name)
        if on_scan:
            on_scan(paths[0], steps)
        written.append(paths)
    return written
