"""Sessions of three contrasts whose truth is known: do they know more together than alone.

One head, deformed from a label map that the model was not trained on, is scanned three times with
thick slices, in another plane, with another contrast and in another position each time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from synthseg_bids.files import write_table
from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.combine import COMMON_MM, Combination, Contrast, combine
from synthseg_bids.inference.register import register
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import generation_labels, segmentation_labels
from synthseg_bids.measure.overlap import paper_dice, resample_nearest
from synthseg_bids.synth.generator import deformed_labels
from synthseg_bids.synth.label_maps import LabelMap, cerebrum_centre, load_label_map
from synthseg_bids.synth.parameters import GeneratorConfig, draw
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.synth.resolution import Resolution

#: Contrast of each scan by its name, and the axis across its slices.
PLANES = {'T1w': 0, 'T2w': 1, 'FLAIR': 2}
#: The head between scans: half-widths of rotation in degrees and translation in mm.
ROTATION, TRANSLATION = 10, 8
#: Field of view of the head and of the scans in mm; whole slices in the latter.
HEAD_SIZE, SCAN_SIZE = (190, 220, 190), (160, 190, 160)


@dataclass(frozen=True)
class Scan:
    """One scan of a session.

    Attributes
    ----------
    suffix : str
    image : (x, y, z) float32 array
        With thick slices.
    affine : (4, 4) array
    truth : (x, y, z) int16 array
        Labels on a grid of 1 mm.
    truth_affine : (4, 4) array
    to_head : (4, 4) array
        Maps positions in the scan to positions in the head, in mm.
    """

    suffix: str
    image: np.ndarray
    affine: np.ndarray
    truth: np.ndarray
    truth_affine: np.ndarray
    to_head: np.ndarray


def deformed_head(label_map: LabelMap, seed: int) -> LabelMap:
    """Return the label map of another head, deformed as for training."""
    own = PRESETS['synthseg-bids']
    still = replace(own.deformation, rotation_deg=0, flip_probability=0)
    config = replace(
        own, size=HEAD_SIZE, crop_jitter=0, deformation=still, lesions=None,
        skull_strip_probability=0, no_csf_probability=0,
    )  # fmt: skip
    x, y, z = label_map.indices.shape
    source = torch.Generator().manual_seed(seed)
    parameters = draw(config, (x, y, z), source, label_map.centre, label_map.spacing_mm)
    indices = deformed_labels(label_map.indices, parameters, config)
    centre = cerebrum_centre(_targets(indices), label_map.name)
    return replace(label_map, indices=indices, affine=np.eye(4), centre=centre)


def _targets(indices: Tensor) -> np.ndarray:
    """Return the segmentation labels of rows of the generation table."""
    return np.array([label.target for label in generation_labels()], np.int16)[indices.numpy()]


def scan_config() -> GeneratorConfig:
    """Return the settings of a scan: real contrasts and their noise, of a head that moves only."""
    own = PRESETS['synthseg-bids']
    moves = replace(
        own.deformation, rotation_deg=ROTATION, translation=TRANSLATION, scaling=0, shear=0,
        svf_std=(0, 0), flip_probability=0,
    )  # fmt: skip
    return replace(
        own, size=SCAN_SIZE, crop_jitter=0, deformation=moves, lesions=None, ventricles=None,
        artefacts=None, skull_strip_probability=0, no_csf_probability=0, blur=(0.4, 0.4),
        intensity=replace(own.intensity, realistic_probability=1),
    )  # fmt: skip


def scans_of(head: LabelMap, seed: int, slice_mm: int) -> Iterator[Scan]:
    """Scan a head in three planes, with slices of some whole mm."""
    values = np.array([label.index for label in segmentation_labels()], dtype=np.int16)
    x, y, z = head.indices.shape
    config = scan_config()
    for number, (suffix, axis) in enumerate(PLANES.items()):
        source = torch.Generator().manual_seed(seed + number)
        parameters = draw(config, (x, y, z), source, head.centre, head.spacing_mm)
        step, sigma = [1.0] * 3, [0.5] * 3
        step[axis], sigma[axis] = slice_mm, 0.5 * slice_mm
        slices = Resolution((sigma[0], sigma[1], sigma[2]), (step[0], step[1], step[2]))
        image, target = head.make(replace(parameters, resolution=slices), config)
        affine = np.eye(4)
        affine[:3, 3] = parameters.start
        # The acquired slices, between which the generator has interpolated.
        thick = affine @ np.diag([*(slice_mm if a == axis else 1 for a in range(3)), 1.0])
        kept = tuple(slice(None, None, slice_mm if a == axis else 1) for a in range(3))
        to_head = np.eye(4)
        to_head[:3, :3] = parameters.deformation.matrix.numpy()
        centre = (np.array([x, y, z]) - 1) / 2
        to_head[:3, 3] = (
            centre + parameters.deformation.translation.numpy() - to_head[:3, :3] @ centre
        )
        truth = values[target.numpy()]
        yield Scan(suffix, image.numpy()[kept], thick, truth, affine, to_head)


def measure_head(
    label_map: Path, seed: int, network: Segmenter, slice_mm: int
) -> Iterator[dict[str, object]]:
    """Segment the scans of one head alone and together; yield a row for each scan."""
    scans = list(scans_of(deformed_head(load_label_map(label_map), seed), seed, slice_mm))
    contrasts, alone, seconds = [], [], []
    for scan in scans:
        start = time.process_time()
        found = network.predict(scan.image, scan.affine, keep_prior=True)
        seconds.append(time.process_time() - start)
        assert found.prior is not None
        contrasts.append(Contrast(scan.image, scan.affine, found.prior))
        maps = network.resample(found, labels_1mm=True).isotropic
        assert maps is not None
        alone.append(dice(scan, maps.labels, maps.affine))
    start = time.process_time()
    two = contrasts[:2]
    register([one.prior for one in two], [(one.data, one.affine) for one in two])
    per_pair = time.process_time() - start
    start = time.process_time()
    together = combine(contrasts, network.card)
    combining = time.process_time() - start
    for number, scan in enumerate(scans):
        other = (number + 1) % len(scans)
        true = np.linalg.inv(scans[other].to_head) @ scan.to_head
        degrees, mm = motion_error(together.registration.between(number, other), true, scan)
        yield {
            'head': label_map.name.partition('_')[0],
            'scan': scan.suffix,
            'alone': alone[number],
            'together': dice(scan, *on_fine_grid(together, number, scan)),
            'degrees': degrees,
            'mm': mm,
            'overlap': together.registration.overlaps[number],
            'seconds_alone': seconds[number],
            'seconds_registering_two': per_pair,
            'seconds_combining': combining,
        }


def on_fine_grid(together: Combination, number: int, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of all scans together on the grid of 1 mm of one of them."""
    grid = Grid(scan.image.shape, scan.affine).in_ras().resampled(COMMON_MM)
    box, posteriors = together.on_grid(number, grid)
    labels = np.zeros(grid.shape, dtype=np.int16)
    labels[box] = np.array(together.labels, np.int16)[posteriors.argmax(0).numpy()]
    return labels, grid.affine


def dice(scan: Scan, labels: np.ndarray, affine: np.ndarray) -> float:
    """Return the mean Dice of the structures of the SynthSeg paper."""
    truth = resample_nearest(scan.truth, scan.truth_affine, Grid(labels.shape, affine))
    return paper_dice(labels, truth)['mean']


def motion_error(found: np.ndarray, true: np.ndarray, scan: Scan) -> tuple[float, float]:
    """Return the error of a motion in degrees, and in mm at the centre of the brain."""
    brain = np.argwhere(~np.isin(scan.truth, (0, 24))).mean(axis=0)
    centre = scan.truth_affine @ [*brain, 1.0]
    apart = found @ np.linalg.inv(true)
    degrees = np.degrees(Rotation.from_matrix(apart[:3, :3]).magnitude())
    return float(degrees), float(np.linalg.norm((found - true) @ centre))


def main() -> None:
    """Measure sessions of heads that were kept apart from training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('label_maps', type=Path, nargs='+', help='not of the training')
    parser.add_argument('--out', type=Path, required=True, help='table to write')
    parser.add_argument('--seed', type=int, default=2**40)
    parser.add_argument('--slice-mm', type=int, default=5, help='slice thickness (default: 5)')
    given = parser.parse_args()
    network = Segmenter(device='cpu', threads=1)
    rows: list[dict[str, object]] = []
    for path in given.label_maps:
        number = int(''.join(filter(str.isdigit, path.name)) or 0)
        rows += measure_head(path, given.seed + 10 * number, network, given.slice_mm)
        write_table(given.out, [*rows[0]], rows)


if __name__ == '__main__':
    main()
