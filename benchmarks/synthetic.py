"""Synthetic scans to measure on: made from label maps that a model was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from synthseg_bids.files import read_table
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.reports.figures import overlay
from synthseg_bids.synth.intensity import rescale_percentiles
from synthseg_bids.synth.label_maps import LabelMap, load_label_map, synthesize
from synthseg_bids.synth.presets import PRESETS, evaluation_config
from synthseg_bids.synth.resolution import Resolution, acquire
from synthseg_bids.synth.ventricles import VentricleConfig

#: Far from the seeds of training and of its validation scans, which count from 0.
FIRST_SEED = 2**40
SLICE_MM = 5
SLICES = f'slices{SLICE_MM}mm'
WIDE = 'ventricles'
CONDITIONS = ('midl2020', 'synthseg2023', SLICES, WIDE)
#: Presets of the conditions that are not presets themselves.
PRESET_OF = {SLICES: 'synthseg2023', WIDE: 'midl2020'}
#: Lateral ventricles of 1.5 to 4 times their volume.
WIDENED = VentricleConfig(probability=1, growth=(4, 10))


@dataclass(frozen=True)
class Recipe:
    """How one scan is made, and what its files are called."""

    path: Path
    condition: str
    seed: int
    stem: str

    @property
    def labels_name(self) -> str:
        """Of its true labels."""
        return f'{self._folder}/{self.stem}_dseg.nii.gz'

    @property
    def segmentation_name(self) -> str:
        """Of what a model makes of it."""
        return f'{self._folder}/{self.stem}_seg-synthseg_desc-{self.condition}_dseg.nii.gz'

    @property
    def _folder(self) -> str:
        return f'{self.stem.partition("_")[0]}/anat'

    def make(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image, labels and affine; see :func:`synthetic_scan`."""
        return synthetic_scan(_label_map(self.path), self.condition, self.seed)


@lru_cache(maxsize=1)
def _label_map(path: Path) -> LabelMap:
    return load_label_map(path)


def list_recipes(paths: Sequence[Path], scans: int) -> dict[str, Recipe]:
    """Return the recipes of so many scans per label map and condition, by the scans' names."""
    recipes = {}
    for number, path in enumerate(paths):
        for i in range(scans):
            for condition in CONDITIONS:
                # Entities tell the scans apart, so that each finds the labels it was made from.
                stem = f'sub-{number + 1:02d}_acq-{condition}_run-{i + 1}'
                seed = FIRST_SEED + 1000 * number + i
                recipes[f'{stem}_{condition}'] = Recipe(path, condition, seed, stem)
    return recipes


def synthetic_scan(
    label_map: LabelMap, condition: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a scan at the resolution of the label map.

    Returns
    -------
    image : (x, y, z) float32 array
    labels : (x, y, z) int16 array
    affine : (4, 4) array
    """
    config = evaluation_config(PRESET_OF.get(condition, condition), PRESETS['synthseg-bids'])
    if condition == WIDE:
        config = replace(config, ventricles=WIDENED)
    if condition == SLICES:
        config = replace(config, resolution=None, rescale=False)
    image, target, affine = synthesize(label_map, config, seed)
    if condition == SLICES:
        axis = int(np.random.default_rng(seed).integers(3))
        image = rescale_percentiles(acquire(image, thick_slices(axis, label_map.spacing_mm)))
    values = np.array([label.index for label in segmentation_labels()], dtype=np.int16)
    return image.numpy(), values[target.numpy()], affine


def thick_slices(axis: int, spacing_mm: float) -> Resolution:
    """Return an acquisition as the generator draws them, with coarse slices along one axis."""
    step, sigma = [1.0] * 3, [0.5] * 3
    step[axis] = SLICE_MM / spacing_mm
    sigma[axis] = 0.75 * step[axis]
    return Resolution((sigma[0], sigma[1], sigma[2]), (step[0], step[1], step[2]))


def draw_worst(recipes: Mapping[str, Recipe], scans: Path, segmentations: Path, out: Path) -> None:
    """Draw the scan of each condition with the lowest Dice, and its segmentation.

    Parameters
    ----------
    recipes : mapping of str to Recipe
    scans : Path
        Dice of each scan, from ``synthseg evaluate``.
    segmentations : Path
        Folder with them.
    out : Path
        Folder for the pictures.
    """
    dice = {
        row['scan']: float(row['dice'])
        for row in read_table(scans)
        if row['structure'] == MEAN_NAME and row['dice'] != 'n/a'
    }
    for condition in CONDITIONS:
        names = [name for name in dice if recipes[name].condition == condition]
        worst = min(names, key=dice.__getitem__)
        image, _, affine = recipes[worst].make()
        found = nib.load(segmentations / recipes[worst].segmentation_name)
        overlay(
            image,
            np.asarray(found.dataobj),
            out / f'worst_{condition}.png',
            f'{worst}: Dice {dice[worst]:.3f}',
            np.linalg.norm(affine[:3, :3], axis=0),
        )
