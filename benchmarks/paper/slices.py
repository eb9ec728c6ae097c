"""Figure 5 as a table: one slice of a scan, its reference, and what each system made of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids.files import write_table
from synthseg_bids.images.geometry import Grid
from synthseg_bids.images.volume_io import read_label_map, read_volume
from synthseg_bids.labels import channel_labels, fold_reference
from synthseg_bids.measure.overlap import MEAN_NAME, resample_nearest
from synthseg_bids.training.real_scans import Pair

from .statements import per_scan
from .systems import Run, tree

#: ``pixels`` is a row of pixels from left to right, two hexadecimal digits each: grey values of
#: the scan from 00 to ff, and label numbers of everything else.
COLUMNS = ('contrast', 'scan', 'panel', 'row', 'pixels')
SCAN, REFERENCE = 'Scan', 'Reference'
#: Margin around the brain, in pixels of 1 mm.
MARGIN = 6


def write_slices(
    args: argparse.Namespace,
    found: Sequence[Run],
    pairs: Sequence[Pair],
    scans: Sequence[Mapping[str, Any]],
) -> None:
    """Write the table of figure 5.

    Parameters
    ----------
    args : argparse.Namespace
    found : sequence of Run
    pairs : sequence of Pair
    scans : sequence of mapping
        Rows of scans.tsv.
    """
    hidden = {name.removeprefix('sub-') for name in args.hide}
    shown = {
        Path(pair.scan.relative).name.partition('.')[0]: pair
        for pair in pairs
        if pair.scan.entities['sub'] not in hidden
    }
    rows = []
    for contrast, name in median_scans(scans, shown).items():
        pair = shown[name]
        panels = {run.system: segmentation(args, run, pair) for run in found if fair(run, pair)}
        for panel, pixels in cut(pair, panels).items():
            rows += [
                {
                    'contrast': contrast, 'scan': name, 'panel': panel, 'row': number,
                    'pixels': line.astype(np.uint8).tobytes().hex(),
                }
                for number, line in enumerate(pixels)
            ]  # fmt: skip
    write_table(args.docs / 'paper' / 'figure5.tsv', COLUMNS, rows)


def fair(run: Run, pair: Pair) -> bool:
    return run.seen(pair) == 'no'


def median_scans(scans: Iterable[Mapping[str, Any]], among: Iterable[str]) -> dict[str, str]:
    """Choose of each contrast the scan in which SynthSeg's overlap is the median."""
    rows = [r for r in scans if r['system'] == 'synthseg' and r['structure'] == MEAN_NAME]
    among, chosen = set(among), {}
    for contrast in sorted({row['contrast'] for row in rows}):
        own = per_scan(r for r in rows if r['contrast'] == contrast and r['scan'] in among)
        ranked = sorted(own, key=own.__getitem__)
        if ranked:
            chosen[contrast] = ranked[(len(ranked) - 1) // 2]
    return chosen


def segmentation(args: argparse.Namespace, run: Run, pair: Pair) -> Path | None:
    """Find the label map that a run made of a scan."""
    relative = Path(pair.scan.relative)
    stem, _, suffix = relative.name.partition('.')[0].rpartition('_')
    folder = tree(args, run) / relative.parent
    return next(iter(sorted(folder.glob(f'{stem}_seg-*_desc-{suffix}_dseg.nii.gz'))), None)


def cut(pair: Pair, panels: Mapping[str, Path | None]) -> dict[str, np.ndarray]:
    """Cut one coronal slice, 1 mm wide pixels, left on the left, out of everything.

    It goes through the middle of the reference's structures deep in the brain.
    """
    reference = read_label_map(pair.reference)
    labels = fold_reference(reference.data, str(pair.reference))
    corner, shape = view(labels, reference.affine)
    to_world = np.eye(4)
    to_world[:3, 3] = corner
    grid = Grid(shape, to_world)

    def sliced(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return resample_nearest(data, affine, grid)[:, 0].T[::-1]

    image = read_volume(pair.scan.path)
    grey = sliced(image.data, image.affine)
    inside = sliced(labels, reference.affine) > 0
    low, high = 0.0, float(np.percentile(grey[inside], 99.5))
    found = {SCAN: np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255}
    found[REFERENCE] = sliced(labels, reference.affine)
    for name, path in panels.items():
        if path is not None:
            made = read_label_map(path)
            ours = np.isin(np.unique(made.data), channel_labels()).all()
            data = made.data if ours else fold_reference(made.data, str(path))
            found[name] = sliced(data, made.affine)
    return found


def view(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return the first voxel in world mm and the size of the slice around the brain."""

    def world(mask: np.ndarray) -> np.ndarray:
        return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]

    brain = world((labels > 0) & (labels != 24))
    deep = np.isin(labels, (10, 49, 17, 53))
    low = np.floor(brain.min(0)) - MARGIN
    size = np.ceil(brain.max(0) - low).astype(int) + MARGIN
    low[1] = np.round((world(deep) if deep.any() else brain).mean(0)[1])
    return low, (int(size[0]), 1, int(size[2]))
