"""Accuracy of cortical parcels, against FreeSurfer's aparc+aseg of people not trained on.

Usage: python benchmarks/parcels.py [--parts maps generated real] [--data DIR] [--prepared DIR]

Parts: ``maps``, the label maps themselves are the segmentation; ``generated``, scans are made of
them (of those heads in --prepared, from synthseg prepare-labels); ``real``, real scans;
``contrasts``, volumes between the contrasts of one person. Writes tables to docs/parcels, and of
all that are there docs/parcels.rst. Half an hour on 2 cores; without a part, the page alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from accuracy import DATA, REPOSITORY
from parcels_page import PARTS, write_page
from synthetic import FIRST_SEED, SLICE_MM, thick_slices

from synthseg_bids.files import read_table, write_table
from synthseg_bids.hardware.device import set_threads
from synthseg_bids.images.geometry import Grid, orientation, to_ras
from synthseg_bids.images.volume_io import Volume, read_label_map, read_volume
from synthseg_bids.inference.parcels import Parcellator, label_parcels
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import fold_reference, network_labels
from synthseg_bids.measure.overlap import dice_per_label, resample_nearest
from synthseg_bids.parcels import NOT_IN_DKT, parcel_labels
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.generator import GeneratorConfig
from synthseg_bids.synth.label_maps import generate, load_label_map
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.synth.resolution import acquire

DOCS = REPOSITORY / 'docs' / 'parcels'
PARCELS = [label.index for label in parcel_labels()]
DKT = [index for index in PARCELS if index % 1000 not in NOT_IN_DKT]
#: Fewest parcels of a map of the Desikan-Killiany atlas; DKT has 62.
FEWEST = 64
STILL = DeformationConfig(
    rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0), flip_probability=0
)
#: Condition, scan, and its segmentation with parcels; the reference on the same grid.
Case = tuple[str, str, np.ndarray, np.ndarray]


def evaluation_maps(data: Path) -> list[Path]:
    """List the label maps with parcels that are kept for evaluation."""
    rows = read_table(data / 'anatomies.tsv')
    names = [r['name'] for r in rows if r['use'] != 'train' and int(r['cortical_parcels']) > 0]
    return [data / 'anatomies' / 'evaluate' / f'{name}_dseg.nii.gz' for name in names]


def maps(data: Path) -> Iterator[Case]:
    """Name the parcels of label maps, whose own parcels are the reference."""
    network, labels = Parcellator(), network_labels()
    for path in evaluation_maps(data):
        volume = read_label_map(path)
        raw = to_ras(volume.data, orientation(volume.affine))
        raw = raw[tuple(slice(w.min(), w.max() + 1) for w in np.nonzero(raw))]
        folded = fold_reference(raw, path.name)
        one_hot = torch.from_numpy(np.stack([folded == label for label in labels]))
        found = network(one_hot, labels, float(volume.spacing_mm.mean()))
        box = tuple(slice(0, n) for n in raw.shape)
        voxel_mm3 = float(volume.spacing_mm.prod())
        parcels = label_parcels(found, folded, box, raw.shape, np.ones(3), voxel_mm3)
        dkt = sum(bool((raw == index).any()) for index in PARCELS) < FEWEST
        yield 'DKT label maps' if dkt else 'label maps', path.name, parcels, raw


def generated(data: Path, prepared: Path) -> Iterator[Case]:
    """Segment scans generated from heads, with voxels of 1 mm and with slices of 5 mm."""
    segment = Segmenter(parcels=True)
    preset = PRESETS['synthseg-bids']
    for number, path in enumerate(evaluation_maps(data)):
        head = prepared / path.name
        reference = read_label_map(path)
        if not head.exists() or len(np.unique(reference.data)) < FEWEST:
            continue
        label_map = load_label_map(head)
        grid = Grid(tuple(label_map.indices.shape), label_map.affine)
        raw = resample_nearest(reference.data, reference.affine, grid)
        config: GeneratorConfig = replace(
            preset, size=None, deformation=STILL, resolution=None, artefacts=None,
            ventricles=None, blur=(0.4, 0.4),
        )  # fmt: skip
        source = torch.Generator().manual_seed(FIRST_SEED + number)
        image, _, _ = generate(label_map, config, source)
        thick = acquire(image, thick_slices(2, label_map.spacing_mm))
        for name, scan in (('1 mm', image), (f'{SLICE_MM} mm slices', thick)):
            found = segment.segment(scan.numpy(), label_map.affine)
            assert found.parcels is not None
            yield f'generated scans, {name}', path.name, found.parcels, raw


def real(data: Path) -> Iterator[Case]:
    """Segment the real scans that have a reference with parcels."""
    segment = Segmenter(parcels=True)
    for folder, subjects, condition in (
        ('adults', 'sub-*', 'adults, T1w'),
        ('bids', 'sub-mni', 'sub-mni'),
    ):
        for scan in sorted((data / folder).glob(f'{subjects}/anat/*.nii.gz')):
            subject = scan.name.partition('_')[0]
            place = data / folder / 'derivatives' / 'reference' / subject / 'anat'
            reference = read_label_map(place / f'{subject}_desc-aparcaseg_dseg.nii.gz')
            volume, parcels = _segmented(segment, scan)
            raw = resample_nearest(reference.data, reference.affine, volume.grid)
            suffix = scan.name.removesuffix('.nii.gz').rpartition('_')[2]
            yield (
                condition if folder == 'adults' else f'{condition}, {suffix}',
                scan.name,
                parcels,
                raw,
            )


def _segmented(segment: Segmenter, scan: Path) -> tuple[Volume, np.ndarray]:
    volume = read_volume(scan)
    found = segment.segment(volume.data, volume.affine)
    assert found.parcels is not None
    return volume, found.parcels


def contrasts(data: Path) -> list[dict[str, object]]:
    """Compare the volumes of parcels between the contrasts of one person."""
    segment = Segmenter(parcels=True)
    rows: list[dict[str, object]] = []
    for session in ('ses-1', 'ses-2'):
        volumes = {}
        for scan in sorted((data / 'bids' / 'sub-ms01' / session / 'anat').glob('*.nii.gz')):
            volume, parcels = _segmented(segment, scan)
            counts = np.array([(parcels == index).sum() for index in PARCELS])
            volumes[scan.name.removesuffix('.nii.gz')] = counts * volume.spacing_mm.prod()
        for one, other in combinations(volumes, 2):
            a, b = volumes[one], volumes[other]
            share = abs(a - b) / np.maximum((a + b) / 2, 1)
            rows.append(
                {'scan': one, 'other': other, 'median_difference': float(np.median(share))}
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def measure(cases: Iterator[Case]) -> list[dict[str, object]]:
    """Return the Dice of each parcel in each scan."""
    rows: list[dict[str, object]] = []
    for condition, scan, found, reference in cases:
        wanted = DKT if condition.startswith('DKT') else PARCELS
        dice = dice_per_label(found, reference, wanted)
        mean, least = np.nanmean([*dice.values()]), np.nanmin([*dice.values()])
        print(condition, scan, f'{mean:.3f}', f'{least:.3f}', file=sys.stderr, flush=True)
        rows += [
            {'condition': condition, 'scan': scan, 'parcel': index, 'dice': value}
            for index, value in dice.items()
        ]
    return rows


def write(part: str, rows: list[dict[str, object]]) -> None:
    """Write the Dice of a part, averaged over parcels and over scans."""
    import pandas as pd

    table = pd.DataFrame(rows)
    names = {label.index: label.name for label in parcel_labels()}
    scans = table.groupby(['condition', 'scan'], sort=False).dice.agg(['mean', 'min'])
    parcels = table.groupby(['condition', 'parcel'], sort=False).dice.agg(['mean', 'min'])
    write_table(
        DOCS / f'{part}_scans.tsv',
        ['condition', 'scan', 'mean', 'min'],
        scans.reset_index().to_dict('records'),
    )
    found = parcels.reset_index().to_dict('records')
    write_table(
        DOCS / f'{part}_parcels.tsv',
        ['condition', 'parcel', 'name', 'mean', 'min'],
        [row | {'name': names[row['parcel']]} for row in found],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--parts', nargs='*', default=[*PARTS, 'contrasts'])
    parser.add_argument('--data', type=Path, default=DATA)
    parser.add_argument('--prepared', type=Path, default=Path('prepared'), metavar='DIR')
    parser.add_argument('--threads', type=int)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    DOCS.mkdir(parents=True, exist_ok=True)
    cases = {
        'maps': lambda: maps(args.data),
        'generated': lambda: generated(args.data, args.prepared),
        'real': lambda: real(args.data),
    }
    for part in PARTS:
        if part in args.parts:
            write(part, measure(cases[part]()))
    if 'contrasts' in args.parts:
        rows = contrasts(args.data)
        write_table(DOCS / 'contrasts.tsv', ['scan', 'other', 'median_difference'], rows)
    write_page(DOCS, REPOSITORY / 'docs' / 'parcels.rst')
    return 0


if __name__ == '__main__':
    sys.exit(main())
