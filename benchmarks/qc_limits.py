"""Set the limits of confidence: measure the shipped network on good and on spoiled scans.

Usage: python benchmarks/qc_limits.py [--label-maps DIR] [--held-out NAME ...] [--scans N] ...

Scans are made from label maps that the model was not trained on. Some are then spoiled, so that
there is nothing left to segment: turned upside down, or their blocks shuffled. A value that few
good scans have asks for a look; one that is usual in spoiled scans and hardly ever occurs in good
ones fails. The limits go to synthseg_bids/data/qc_limits.json with how they were found, from
where quality control takes them; run docs/build.py qc afterwards. Under five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import DATA, REPOSITORY
from synthetic import CONDITIONS, FIRST_SEED, HELD_OUT, held_out_maps, synthetic_scan

from synthseg_bids.files import write_json
from synthseg_bids.hardware.device import set_threads
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.measure.qc import confidence_values
from synthseg_bids.measure.qc_rules import FAIL, REVIEW
from synthseg_bids.synth.label_maps import load_label_map

TARGET = REPOSITORY / 'synthseg_bids' / 'data' / 'qc_limits.json'
#: Percentiles of good scans below which there is something to look at, and above which no limit of
#: failure may lie; percentile of spoiled scans that such a limit should reach.
REVIEW_PERCENTILE, FAIL_PERCENTILE, SPOILED_PERCENTILE = 5, 1, 50
#: Far from the scans that accuracy is measured on.
SEED = FIRST_SEED + 10**6
BLOCK_MM = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then write the limits."""
    args = build_parser().parse_args(argv)
    set_threads(args.threads)
    segmenter = Segmenter(args.model, args.device)
    paths = held_out_maps(args.label_maps, args.held_out, segmenter.card)
    good, spoiled = measure(segmenter, paths, args.scans)
    limits = {name: find_limits(good[name], spoiled[name]) for name in good}
    origin = {
        'written_by': 'benchmarks/qc_limits.py',
        'model': segmenter.card.name,
        'model_sha256': segmenter.card.sha256,
        'label_maps': [path.name for path in paths],
        'conditions': list(CONDITIONS),
        'good_scans': len(next(iter(good.values()))),
        'spoiled_scans': len(next(iter(spoiled.values()))),
        'percentiles': {
            REVIEW: REVIEW_PERCENTILE, FAIL: FAIL_PERCENTILE, 'spoiled': SPOILED_PERCENTILE,
        },
    }  # fmt: skip
    write_json(args.out, {'origin': origin, 'limits': limits})
    print(json.dumps(limits, indent=2))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--label-maps', type=Path, default=DATA / 'label_maps')
    parser.add_argument('--held-out', nargs='+', default=HELD_OUT, metavar='NAME')
    parser.add_argument('--scans', type=int, default=4, help='per label map and condition')
    parser.add_argument('--model', default='default')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int)
    parser.add_argument('--out', type=Path, default=TARGET)
    return parser


def measure(
    segmenter: Segmenter, paths: Sequence[Path], scans: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Segment good and spoiled scans; return the values of each measure."""
    good: dict[str, list[float]] = {}
    spoiled: dict[str, list[float]] = {}
    for number, path in enumerate(paths):
        label_map = load_label_map(path)
        for i in range(scans):
            for condition in CONDITIONS:
                seed = SEED + 1000 * number + i
                print(f'{path.name} {condition} {i + 1}/{scans}', file=sys.stderr, flush=True)
                image, _, affine = synthetic_scan(label_map, condition, seed)
                add(good, segmenter, image, affine)
                # As many of both kinds, a condition after the other.
                if condition == CONDITIONS[i % len(CONDITIONS)]:
                    add(spoiled, segmenter, np.ascontiguousarray(image[:, :, ::-1]), affine)
                    add(spoiled, segmenter, shuffle_blocks(image, affine, seed), affine)
    return good, spoiled


def add(
    values: dict[str, list[float]], segmenter: Segmenter, image: np.ndarray, affine: np.ndarray
) -> None:
    """Segment a scan and add how sure the network was; NaN where it found nothing."""
    found = segmenter.segment(image, affine)
    report = found.report
    measured: dict[str, Any] = confidence_values(report.confidence, report.flip_dice)
    for name, value in measured.items():
        values.setdefault(name, []).append(math.nan if value is None else value)


def shuffle_blocks(image: np.ndarray, affine: np.ndarray, seed: int) -> np.ndarray:
    """Cut a scan into cubes and put them together in another order."""
    side = [max(1, round(BLOCK_MM / mm)) for mm in np.linalg.norm(affine[:3, :3], axis=0)]
    counts = [n // s for n, s in zip(image.shape, side, strict=True)]
    x, y, z = (n * s for n, s in zip(counts, side, strict=True))
    blocks = image[:x, :y, :z].reshape(counts[0], side[0], counts[1], side[1], counts[2], side[2])
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(-1, *side)
    blocks = blocks[np.random.default_rng(seed).permutation(len(blocks))]
    return blocks.reshape(*counts, *side).transpose(0, 3, 1, 4, 2, 5).reshape(x, y, z)


def find_limits(good: Sequence[float], spoiled: Sequence[float]) -> dict[str, float]:
    """Return the limits of one measure, and the percentiles that they come from."""
    look, lowest, median = np.nanpercentile(good, [REVIEW_PERCENTILE, FAIL_PERCENTILE, 50])
    bad = np.nanpercentile(spoiled, SPOILED_PERCENTILE)
    return {
        REVIEW: math.floor(100 * look) / 100,
        FAIL: math.floor(100 * min(lowest, bad)) / 100,
        'good_median': round(float(median), 3),
        'spoiled_median': round(float(bad), 3),
    }


if __name__ == '__main__':
    sys.exit(main())
