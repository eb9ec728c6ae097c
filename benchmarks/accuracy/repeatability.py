"""Repeatability: differences between segmentations of one head in different scans.

One scan is spoiled in known ways, and its segmentation compared with that of the scan as it is;
the contrasts of a session are compared with each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from synthseg_bids.files import write_table
from synthseg_bids.images.geometry import bounding_box, orientation
from synthseg_bids.images.volume_io import Volume, read_volume
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import CSF, PAPER_STRUCTURES
from synthseg_bids.measure.agreement import compare, outline
from synthseg_bids.measure.overlap import dice_per_label, resample_nearest, volumes_from_labels
from synthseg_bids.measure.stats import mean_of_known

SCAN = 'adults/sub-aomic/anat/sub-aomic_T1w.nii.gz'
#: Contrasts of one session; the others are compared with the first one.
SESSION = tuple(
    f'bids/sub-ms01/ses-1/anat/sub-ms01_ses-1_{suffix}.nii.gz'
    for suffix in ('T1w', 'T2w', 'FLAIR')
)
#: World axis that slices lie across, by the plane they lie in.
PLANES = {'sagittal': 0, 'coronal': 1, 'axial': 2}
SLICES_MM = (3, 5)
SNR = 10
SEED = 0
#: Share of the head's height that is cut off, through the brain.
CUT = 0.25
#: Voxels that are left around the brain.
MARGIN = 5
#: The head is brighter than this share of the brain's median intensity.
HEAD_INTENSITY = 0.15
COLUMNS = ('condition', 'structure', 'dice', 'volume_mm3', 'unchanged_mm3')


def average_slices(
    data: np.ndarray, affine: np.ndarray, axis: int, thickness_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Average a scan over thick slices without gaps, whose profile is a box.

    Parameters
    ----------
    data : (x, y, z) array
    affine : (4, 4) array
    axis : int
        Axis of the array that is perpendicular to the slices.
    thickness_mm : float
        Not below the spacing; voxels that two slices share count by their parts. What is left at
        the end is cut off.

    Returns
    -------
    data : (x', y', z') float32 array
    affine : (4, 4) array
    """
    step = thickness_mm / float(np.linalg.norm(affine[:3, axis]))
    count = int(data.shape[axis] / step + 1e-6)
    starts, voxels = step * np.arange(count)[:, None], np.arange(data.shape[axis])
    shares = np.minimum(voxels + 1, starts + step) - np.maximum(voxels, starts)
    weights = np.clip(shares, 0, None) / step
    averaged = np.moveaxis(np.tensordot(weights, data, (1, axis)), 0, axis).astype(np.float32)
    coarse = affine.copy()
    coarse[:3, axis] *= step
    coarse[:3, 3] += affine[:3, axis] * (step - 1) / 2
    return averaged, coarse


def around_brain(brain: np.ndarray) -> tuple[slice, ...]:
    """Return the part of a grid that just holds the brain, with a margin of some voxels."""
    box = bounding_box(brain)
    assert box is not None
    return tuple(slice(max(part.start - MARGIN, 0), part.stop + MARGIN) for part in box)


def without_top(head: np.ndarray, affine: np.ndarray) -> tuple[slice, ...]:
    """Return what is left of a grid where the upper quarter of the head is cut off."""
    orient, box = orientation(affine), bounding_box(head)
    assert box is not None
    axis = orient.axes[PLANES['axial']]
    depth = round(CUT * (box[axis].stop - box[axis].start))
    kept = [slice(None)] * 3
    if orient.flips[PLANES['axial']]:
        kept[axis] = slice(box[axis].start + depth, None)
    else:
        kept[axis] = slice(0, box[axis].stop - depth)
    return tuple(kept)


def add_noise(data: np.ndarray, brain: np.ndarray, snr: float, seed: int) -> np.ndarray:
    """Add the noise of a magnitude image, its standard deviation the brain's mean by `snr`."""
    rng = np.random.default_rng(seed)
    std = float(data[brain].mean()) / snr
    real, imaginary = (std * rng.standard_normal(data.shape, np.float32) for _ in range(2))
    return np.hypot(data + real, imaginary)


def conditions(
    scan: Volume, labels: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[slice, ...]]]:
    """Yield name, image and affine of each spoiled scan, and the part of the grid it shows."""
    whole = (slice(None),) * 3
    for plane, world_axis in PLANES.items():
        axis = orientation(scan.affine).axes[world_axis]
        for thickness in SLICES_MM:
            coarse = average_slices(scan.data, scan.affine, axis, thickness)
            yield f'{plane} slices of {thickness} mm', *coarse, whole
    brain = ~np.isin(labels, (0, CSF))
    head = scan.data > HEAD_INTENSITY * np.median(scan.data[brain])
    for name, kept in (
        ('cut around the brain', around_brain(brain)),
        ('cut through the brain', without_top(head, scan.affine)),
    ):
        affine = scan.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in kept]
        yield name, np.ascontiguousarray(scan.data[kept]), affine, kept
    yield f'noise, SNR {SNR}', add_noise(scan.data, brain, SNR, SEED), scan.affine, whole


def compare_maps(
    condition: str, ours: np.ndarray, unchanged: np.ndarray, affine: np.ndarray
) -> list[dict[str, object]]:
    """Compare two label maps on one grid, structure by structure, both sides together.

    Returns
    -------
    list of dict
        With the keys :data:`COLUMNS`; Dice is the mean of both sides, NaN of what neither has.
    """
    volumes, before = (volumes_from_labels(labels, affine) for labels in (ours, unchanged))
    return _rows(
        condition,
        dice_per_label(ours, unchanged, [*before]),
        {label: mm3 for label, (_, mm3) in volumes.items()},
        {label: mm3 for label, (_, mm3) in before.items()},
    )


def _rows(
    condition: str, dice: dict[int, float], volumes: dict[int, float], before: dict[int, float]
) -> list[dict[str, object]]:
    return [
        {
            'condition': condition,
            'structure': name,
            'dice': mean_of_known(dice[side] for side in sides),
            'volume_mm3': sum(volumes[side] for side in sides),
            'unchanged_mm3': sum(before[side] for side in sides),
        }
        for name, sides in PAPER_STRUCTURES.items()
    ]


def measure_repeatability(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """Segment the scan and its spoiled copies; return the facts of the run."""
    path, session = args.data / SCAN, [args.data / name for name in SESSION]
    if not all(p.exists() for p in (path, *session)):
        print(f'{args.data}: no {SCAN}, or not all of {", ".join(SESSION)}; skipped')
        return {}
    segmenter = Segmenter(args.model, args.device)
    scan = read_volume(path)
    unchanged = segmenter.segment(scan.data, scan.affine).labels
    rows = []
    for condition, data, affine, kept in conditions(scan, unchanged):
        print(condition, flush=True)
        found = segmenter.segment(data, affine, labels_1mm=True).isotropic
        assert found is not None
        ours = resample_nearest(found.labels, found.affine, scan.grid)
        rows += compare_maps(condition, ours[kept], unchanged[kept], scan.affine)
    rows += compare_session(segmenter, session)
    write_table(args.docs / 'accuracy' / 'repeatability.tsv', COLUMNS, rows)
    return {'Scan': SCAN, 'Session': ', '.join(SESSION)}


def compare_session(segmenter: Segmenter, paths: Sequence[Path]) -> list[dict[str, object]]:
    """Compare the contrasts of a session with the first of them, heads aligned."""
    outlines = []
    for path in paths:
        print(path.name, flush=True)
        scan = read_volume(path)
        found = segmenter.segment(scan.data, scan.affine, labels_1mm=True).isotropic
        assert found is not None
        outlines.append(outline(found.labels, found.affine))
    rows = []
    for path, other in zip(paths[1:], outlines[1:], strict=True):
        agreement = compare(outlines[0], other)
        suffix = path.name.partition('.')[0].rpartition('_')[2]
        rows += _rows(
            f'{suffix} against T1w of a session',
            agreement.dice, agreement.volumes_2_mm3, agreement.volumes_1_mm3,
        )  # fmt: skip
    return rows
