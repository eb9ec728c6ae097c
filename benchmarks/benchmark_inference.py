"""Time and memory of segmenting one scan, step by step.

    python benchmarks/benchmark_inference.py [--model NAME] [--scan FILE] [--size 256] [--fast]

Without ``--scan`` a random one of ``size``^3 voxels of 1 mm is made, its brain being wherever the
network sees one. Without a model, a network of the paper's architecture with random weights and a
spacing of ``--spacing`` mm stands in: times do not depend on what was learnt.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids import inference
from synthseg_bids.device import fast_dtype, set_threads
from synthseg_bids.inference import Segmenter
from synthseg_bids.network import NetworkConfig, UNet3D
from synthseg_bids.weights import ModelCard

STEPS = ('prepare', 'forward', 'clean', 'resample_labels')


@contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Measure the steps of a segmentation while it runs."""
    originals = {name: getattr(inference, name) for name in STEPS}

    def wrap(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = step(*args, **options)
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - start
            return result

        return measured

    for name, step in originals.items():
        setattr(inference, name, wrap(name, step))
    try:
        yield
    finally:
        for name, step in originals.items():
            setattr(inference, name, step)


def make_segmenter(args: argparse.Namespace) -> Segmenter:
    if args.model:
        return Segmenter(args.model, args.device, not args.fast, args.threads)
    set_threads(args.threads)
    config = NetworkConfig(features=args.features, norm='instance', norm_placement='conv')
    card = ModelCard('random', config, args.spacing)
    return Segmenter.from_network(UNet3D(config), card, args.device, not args.fast)


def make_scan(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if args.scan:
        from synthseg_bids.volume_io import read_volume

        start = time.perf_counter()
        volume = read_volume(args.scan)
        print(f'read             {time.perf_counter() - start:8.2f} s')
        return volume.data, volume.affine
    rng = np.random.default_rng(0)
    return rng.normal(size=(args.size,) * 3).astype(np.float32), np.eye(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model')
    parser.add_argument('--scan', type=Path)
    parser.add_argument('--size', type=int, default=192)
    parser.add_argument('--spacing', type=float, default=1.0)
    parser.add_argument('--features', type=int, default=24)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int)
    parser.add_argument('--fast', action='store_true')
    parser.add_argument('--posteriors', action='store_true')
    parser.add_argument('--repeats', type=int, default=2)
    args = parser.parse_args()

    start = time.perf_counter()
    segmenter = make_segmenter(args)
    print(f'load             {time.perf_counter() - start:8.2f} s')
    data, affine = make_scan(args)
    for repeat in range(args.repeats):
        seconds: dict[str, float] = {}
        with timed(seconds):
            found = segmenter.segment(data, affine, posteriors=args.posteriors)
        print(f'run {repeat + 1}: scan {data.shape}, network {found.grid_shape}, {found.device}')
        for name, value in seconds.items():
            print(f'  {name:<15}{value:8.2f} s')
        print(f'  {"all":<15}{found.seconds:8.2f} s')
    print(f'number format    {fast_dtype(segmenter.device)}')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f'peak memory      {peak / 2**20:8.2f} GiB')
    if segmenter.device.type == 'cuda':
        import torch

        print(f'peak GPU memory  {torch.cuda.max_memory_allocated() / 2**30:8.2f} GiB')


if __name__ == '__main__':
    main()
