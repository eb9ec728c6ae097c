"""Synthetic scans to measure on: made from label maps that a model was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from synthseg_bids.files import read_table
from synthseg_bids.labels import CSF, segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.models.card import ModelCard
from synthseg_bids.reports.figures import overlay
from synthseg_bids.synth.intensity import rescale_percentiles
from synthseg_bids.synth.label_maps import (
    LabelMap,
    find_label_maps,
    is_named,
    load_label_map,
    synthesize,
)
from synthseg_bids.synth.parameters import GeneratorConfig, draw
from synthseg_bids.synth.presets import PRESETS, evaluation_config
from synthseg_bids.synth.resolution import Noise, Resolution, acquire
from synthseg_bids.synth.ventricles import VentricleConfig

#: Label maps that the shipped model was not trained on.
HELD_OUT = ('sub-13', 'sub-14', 'sub-15', 'sub-16')
#: Far from the seeds of training and of its validation scans, which count from 0.
FIRST_SEED = 2**40
SLICE_MM = 5
SLICES = f'slices{SLICE_MM}mm'
WIDE = 'ventricles'
NOISY = 'snr'
LOW_FIELD = 'lowfield'
#: Not a condition of its own in accuracy: contrasts of real sequences at full resolution, with
#: little noise, of which a network is as sure as it is of good real scans.
CLEAR = 'clear'
CONDITIONS = ('midl2020', 'synthseg2023', SLICES, WIDE, NOISY, LOW_FIELD)
#: Conditions that are acquired here, and the presets of those that are not presets themselves.
ACQUIRED = (SLICES, NOISY, LOW_FIELD)
PRESET_OF = {WIDE: 'midl2020', CLEAR: 'synthseg-bids'} | dict.fromkeys(ACQUIRED, 'synthseg2023')
#: Mean intensity of the brain by the standard deviation of the noise of acquired voxels.
SNR = {NOISY: (8, 15), LOW_FIELD: (10, 10)}
LOW_FIELD_MM = 3
#: Lateral ventricles of 1.5 to 4 times their volume.
WIDENED = VentricleConfig(probability=1, growth=(4, 10))


@dataclass(frozen=True)
class Recipe:
    """Recipe of one scan, and the names of its files."""

    path: Path
    condition: str
    seed: int
    stem: str

    @property
    def labels_name(self) -> str:
        """Return the name of the file of true labels."""
        return f'{self._folder}/{self.stem}_dseg.nii.gz'

    @property
    def segmentation_name(self) -> str:
        """Return the name of the file of its segmentation."""
        return f'{self._folder}/{self.stem}_seg-synthseg_desc-{self.condition}_dseg.nii.gz'

    @property
    def _folder(self) -> str:
        return f'{self.stem.partition("_")[0]}/anat'

    def make(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image, labels and affine; see :func:`synthetic_scan`."""
        return synthetic_scan(_label_map(self.path), self.condition, self.seed)


def held_out_maps(folder: Path, names: Sequence[str], card: ModelCard) -> list[Path]:
    """Return the label maps of some names; exit if there is none or the model has seen one."""
    paths = [path for path in find_label_maps(folder) if is_named(path, names)]
    seen = card.trained_on(paths)
    if seen or not paths:
        problem = 'the model was trained on it' if seen else 'no such label map'
        raise SystemExit(f'{" ".join(seen or names)}: {problem}; hold out others')
    return paths


@lru_cache(maxsize=1)
def _label_map(path: Path) -> LabelMap:
    return load_label_map(path)


def list_recipes(
    paths: Sequence[Path], scans: int, conditions: Sequence[str] = CONDITIONS
) -> dict[str, Recipe]:
    """Return the recipes of so many scans per label map and condition, by the scans' names."""
    recipes = {}
    for number, path in enumerate(paths):
        for i in range(scans):
            for condition in conditions:
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
    if condition == CLEAR:
        intensity = replace(
            config.intensity, realistic_probability=1, std=(0, 5), bias_std=(0, 0.2), gamma=0.1
        )
        none = dict.fromkeys(('resolution', 'noise', 'lesions', 'texture', 'artefacts'))
        config = replace(config, intensity=intensity, blur=(0.4, 0.4), **none)
    values = np.array([label.index for label in segmentation_labels()], dtype=np.int16)
    if condition not in ACQUIRED:
        image, target, affine = synthesize(label_map, config, seed)
        return image.numpy(), values[target.numpy()], affine
    # Scans with noise are those of their preset in all else, resolution included.
    if condition != NOISY:
        config = replace(config, resolution=None)
    image, target, affine, resolution = _before_acquisition(label_map, config, seed)
    labels = values[target.numpy()]
    rng = np.random.default_rng(seed)
    if condition == SLICES:
        resolution = thick_slices(int(rng.integers(3)), label_map.spacing_mm)
    elif condition == LOW_FIELD:
        step = LOW_FIELD_MM / label_map.spacing_mm
        resolution = Resolution((0.75 * step,) * 3, (step,) * 3)
    noise = None
    if condition in SNR:
        signal = float(image.numpy()[~np.isin(labels, (0, CSF))].mean())
        noise = Noise(signal / rng.uniform(*SNR[condition]), rician=True)
    assert resolution is not None
    image = acquire(image, resolution, noise, torch.Generator().manual_seed(seed))
    return rescale_percentiles(image).numpy(), labels, affine


def _before_acquisition(
    label_map: LabelMap, config: GeneratorConfig, seed: int
) -> tuple[Tensor, Tensor, np.ndarray, Resolution | None]:
    """Make a scan at full resolution; return the resolution drawn for it, too."""
    x, y, z = label_map.indices.shape
    source = torch.Generator().manual_seed(seed)
    parameters = draw(config, (x, y, z), source, label_map.centre, label_map.spacing_mm)
    fine = replace(parameters, resolution=None)
    image, target = label_map.make(fine, replace(config, rescale=False))
    affine = label_map.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ parameters.start
    return image, target, affine, parameters.resolution


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
    for condition in dict.fromkeys(recipe.condition for recipe in recipes.values()):
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
