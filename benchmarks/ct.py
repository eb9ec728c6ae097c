"""How well CT scans are segmented: generated ones of label maps that the model has not seen.

Usage: python benchmarks/ct.py [--label-maps DIR] [--held-out NAME ...] [--scans N] [--model NAME]

Intensities are Hounsfield units of the tissues, with the noise of a head scan. Every scan is made
with voxels of 1 mm and with axial slices of 5 mm. Writes docs/ct.rst. Ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from accuracy import DATA, REPOSITORY
from page import cpu_name, render
from synthetic import FIRST_SEED, HELD_OUT, SLICE_MM, held_out_maps, thick_slices

from synthseg_bids.files import write_text
from synthseg_bids.hardware.device import set_threads
from synthseg_bids.images.ct import is_hounsfield
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import generation_labels, segmentation_labels, unsided_classes
from synthseg_bids.measure.overlap import paper_dice
from synthseg_bids.synth.intensity import ContrastPriors, IntensityConfig
from synthseg_bids.synth.label_maps import (
    LabelMap,
    load_label_map,
    synthesize,
)
from synthseg_bids.synth.presets import PRESETS, evaluation_config
from synthseg_bids.synth.relaxometry import TISSUE_OF
from synthseg_bids.synth.resolution import acquire

TARGET = REPOSITORY / 'docs' / 'ct.rst'
#: Mean Hounsfield units: grey matter 37 to 41, white matter 20 to 34, fluid 0 to 15, blood 40 to
#: 60, muscle 35 to 60, fat -120 to -60, compact bone from 700 (Osborn's Brain; Hounsfield 1973).
HOUNSFIELD = {
    'white matter': 29, 'cerebellar white matter': 30, 'brainstem': 31, 'ventral DC': 33,
    'pallidum': 37, 'thalamus': 37, 'fluid': 8, 'choroid plexus': 42, 'lesion': 24, 'blood': 48,
    'muscle': 52, 'fat': -95, 'marrow': 250, 'eye': 12, 'bone': 1000, 'air': -1000,
}  # fmt: skip
GREY_MATTER = 38
#: What the extra-cerebral labels of the SynthSeg maps look like, by where they lie.
OUTSIDE = {
    502: 'air', 506: 'eye', 507: 'muscle', 508: 'fat', 509: 'muscle', 511: 'fat', 512: 'air',
    514: 'blood', 515: 'bone', 516: 'marrow', 530: 'fat',
}  # fmt: skip
#: Standard deviations between heads, and of the noise of voxels of 1 mm.
SCATTER, NOISE, BONE_NOISE = 1.5, 6.0, 150.0
#: The generator's intensities are at least 0: one unit of it is so many HU from air on.
HU_PER_UNIT = 10
SLICES_MM = (1, SLICE_MM)


def contrast() -> ContrastPriors:
    """Return the Gaussians of CT, in units of the generator."""
    tissues: dict[int, str] = {}
    for label, row in zip(generation_labels(), unsided_classes(), strict=True):
        if row not in tissues:
            tissues[row] = {**TISSUE_OF, **OUTSIDE}[label.index]
    in_order = [tissues[row] for row in sorted(tissues)]
    means = [HOUNSFIELD.get(tissue, GREY_MATTER) + 1000 for tissue in in_order]
    noise = [BONE_NOISE if tissue == 'bone' else NOISE for tissue in in_order]
    return ContrastPriors(
        'CT',
        tuple((mean / HU_PER_UNIT, SCATTER / HU_PER_UNIT) for mean in means),
        tuple((one / HU_PER_UNIT, 0.0) for one in noise),
    )


def ct_scan(
    label_map: LabelMap, slice_mm: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a CT scan.

    Returns
    -------
    image : (x, y, z) float32 array
        In Hounsfield units.
    labels : (x, y, z) int16 array
    affine : (4, 4) array
    """
    config = evaluation_config('synthseg2023', PRESETS['synthseg-bids'])
    # The generator rescales to [0, 1]: with this clip, from air to 1500 HU.
    intensity = IntensityConfig(
        priors=(contrast(),), bias_probability=0, gamma=0, clip=(0, 2500 / HU_PER_UNIT)
    )
    config = replace(
        config, intensity=intensity, resolution=None, no_csf_probability=0, rescale=False
    )
    image, target, affine = synthesize(label_map, config, seed)
    if slice_mm > 1:
        image = acquire(image, thick_slices(2, label_map.spacing_mm))
    values = np.array([label.index for label in segmentation_labels()], dtype=np.int16)
    return 2500 * image.numpy() - 1000, values[target.numpy()], affine


def measure(
    segmenter: Segmenter, paths: Sequence[Path], scans: int
) -> dict[int, list[dict[str, float]]]:
    """Return the Dice of each structure in each scan, by the thickness of slices."""
    found: dict[int, list[dict[str, float]]] = {mm: [] for mm in SLICES_MM}
    for number, path in enumerate(paths):
        label_map = load_label_map(path)
        for i in range(scans):
            for mm in SLICES_MM:
                image, labels, affine = ct_scan(label_map, mm, FIRST_SEED + 1000 * number + i)
                assert is_hounsfield(image), path.name
                found[mm].append(paper_dice(segmenter.segment(image, affine).labels, labels))
                print(path.name, f'{mm} mm', found[mm][-1], file=sys.stderr, flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--label-maps', type=Path, default=DATA / 'label_maps')
    parser.add_argument('--held-out', nargs='+', default=HELD_OUT, metavar='NAME')
    parser.add_argument('--scans', type=int, default=1, help='per label map')
    parser.add_argument('--model', default='default')
    parser.add_argument('--threads', type=int)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    segmenter = Segmenter(args.model)
    paths = held_out_maps(args.label_maps, args.held_out, segmenter.card)
    found = measure(segmenter, paths, args.scans)
    lines = [
        [name, *(f'{np.nanmean([scan[name] for scan in found[mm]]):.3f}' for mm in SLICES_MM)]
        for name in found[1][0]
    ]
    page = render(
        'ct',
        scans=len(found[1]),
        maps=len(paths),
        model=segmenter.card.name,
        contrast=GREY_MATTER - HOUNSFIELD['white matter'],
        noise=f'{NOISE:g}',
        fat=HOUNSFIELD['fat'],
        head=['Structure', *(f'{mm} mm slices' for mm in SLICES_MM)],
        rows=lines,
        cpu=cpu_name(),
    )
    write_text(TARGET, page)
    return 0


if __name__ == '__main__':
    sys.exit(main())
