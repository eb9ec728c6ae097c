"""Time the generator, as a whole and step by step.

Usage: python benchmarks/generator.py [LABEL_MAP]

Without a label map a head of 256 x 256 x 256 voxels is made of ellipsoids. Beside TensorFlow's it
is timed by benchmarks/inference.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from inference_rows import our_labels

from synthseg_bids.synth import generator
from synthseg_bids.synth.generator import apply
from synthseg_bids.synth.label_maps import load_label_map
from synthseg_bids.synth.parameters import draw
from synthseg_bids.synth.presets import PRESETS

STEPS = {
    'deform, look up intensities': '_paint',
    'textures': 'add_texture',
    'blur': 'apply_along_axes',
    'bias field': 'bias_field',
    'ghosts, cuts': 'add_artefacts',
    'normalise, gamma': 'normalise',
    'resolution': 'acquire',
    'rescale': 'rescale_percentiles',
}


def timed(times: dict[str, list[float]], name: str, function):
    """Wrap a step of the generator so that its duration is noted."""

    def wrapper(*args, **kwargs):
        started = time.perf_counter()
        result = function(*args, **kwargs)
        times.setdefault(name, []).append(time.perf_counter() - started)
        return result

    return wrapper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('label_map', type=Path, nargs='?')
    parser.add_argument('--runs', type=int, default=8)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    labels = load_label_map(args.label_map).indices if args.label_map else our_labels()
    times: dict[str, list[float]] = {}
    for label, name in STEPS.items():
        setattr(generator, name, timed(times, label, getattr(generator, name)))
    for preset, config in PRESETS.items():
        times.clear()
        config = replace(config, size=(160, 160, 160))
        whole = []
        for seed in range(args.runs + 1):
            parameters = draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))
            started = time.perf_counter()
            apply(labels, parameters, config)
            whole.append(time.perf_counter() - started)
        print(f'{preset}: 160^3 from {labels.shape[0]}^3, {args.threads} threads, median of runs')
        for label, values in times.items():
            print(f'  {label:30s} {statistics.median(values[1:]) * 1000:7.0f} ms')
        print(f'  {"whole sample":30s} {statistics.median(whole[1:]) * 1000:7.0f} ms')


if __name__ == '__main__':
    main()
