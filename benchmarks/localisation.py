"""Compare the crop around the brain with that of two passes over the scan's own grid.

Usage: python benchmarks/localisation.py [FOLDER ...] [--changed N]

The network finds the brain in a scan of half the resolution (synthseg_bids/inference/localise.py).
Here its crop is compared with that of a pass over the whole scan and a second one over the crop
around what the first one found. The last N scans of every folder are also cut at the vertex and
turned by 20 degrees. Ends with 1 if borders of a crop differ by more than 4 mm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from synthseg_bids.images.background import small_filled_box, without_far_background
from synthseg_bids.images.volume_io import read_volume
from synthseg_bids.inference.forward import predict
from synthseg_bids.inference.localise import (
    EMPTY_MARGIN,
    TOLERANCE_MM,
    crop_box,
    find_brain,
    predict_brain,
)
from synthseg_bids.inference.postprocess import Box
from synthseg_bids.inference.preprocess import prepare
from synthseg_bids.inference.segmenter import Segmenter

FOLDERS = [Path('../shared/data', name) for name in ('bids', 'adults', 'lifespan')]
#: Share of a scan that is cut off at the top, and angle by which it is turned about two axes.
CUT, DEGREES = 0.3, 20.0


def fine_region(segmenter: Segmenter, image: np.ndarray) -> Box:
    """Return the crop that two passes over the scan's own grid find."""
    card = segmenter.card
    assert card.crop_mm is not None
    whole = tuple(slice(0, n) for n in image.shape)
    region = small_filled_box(image, EMPTY_MARGIN) or whole
    for _ in range(2):
        found = predict(segmenter.engine, image[region], channels=card.outside_channels)
        brain = find_brain(found.posteriors.sum(0, dtype=torch.float32))
        if brain is None:
            return region
        placed = tuple(
            slice(r.start + b.start, r.start + b.stop) for r, b in zip(region, brain, strict=True)
        )
        multiple = card.network.size_multiple
        region = crop_box(placed, image.shape, card.crop_mm, card.spacing_mm, multiple)
    return region


def variants(image: np.ndarray, changed: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a scan as it is and, if asked for, cut and turned."""
    yield 'as it is', image
    if changed:
        yield 'cut', np.ascontiguousarray(image[..., : round((1 - CUT) * image.shape[2])])
        nodded = ndimage.rotate(image, DEGREES, (1, 2), order=1, cval=float(image.min()))
        yield 'turned', ndimage.rotate(nodded, DEGREES, (0, 1), order=1, cval=float(image.min()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='*', type=Path, default=FOLDERS, metavar='FOLDER')
    parser.add_argument('--changed', type=int, default=3, metavar='N')
    args = parser.parse_args()
    segmenter = Segmenter(device='cpu')
    card, largest = segmenter.card, 0.0
    for folder in args.folders:
        scans = sorted(folder.glob('sub-*/**/*.nii.gz'))
        for i, path in enumerate(scans):
            scan = read_volume(path)
            data, _ = without_far_background(scan.data)
            image = prepare(data, scan.affine, card.spacing_mm).image
            for name, changed in variants(image, i >= len(scans) - args.changed):
                found, _ = predict_brain(segmenter.engine, None, changed, card, None)
                fine = fine_region(segmenter, changed)
                pairs = list(zip(found, fine, strict=True))
                apart = max(max(abs(a.start - b.start), abs(a.stop - b.stop)) for a, b in pairs)
                largest = max(largest, apart * card.spacing_mm)
                print(f'{path.name}\t{name}\t{apart * card.spacing_mm:g} mm', flush=True)
    print(f'largest difference: {largest:g} mm')
    return int(largest > TOLERANCE_MM)


if __name__ == '__main__':
    sys.exit(main())
