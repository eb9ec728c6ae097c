"""Seconds, bytes and operations of each step of a segmentation, and what they are bounded by.

Usage: python benchmarks/steps.py [SCAN] [--threads N] [--repeats N] [--dtype float32 | bfloat16]

CPU seconds are those of the process, so that other programs disturb them less than time on the
clock; the fastest of the repeats counts. A step whose CPU seconds are not more than those on the
clock runs in one thread. Bytes are those that PyTorch's operations read and write,
as if nothing stayed in the caches; what NumPy does is not counted. A step's roofline is the longer
of the times that its operations take at the speed of large matrices, and its bytes at the speed of
copying (Williams et al., CACM 52:65, 2009).
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_rows import peaks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from synthseg_bids.hardware.device import DTYPE_VARIABLE, set_threads
from synthseg_bids.hardware.processes import restart_with_settings
from synthseg_bids.images.volume_io import read_volume
from synthseg_bids.inference import clean_prediction, localise, network_pass, result, segmenter

SCAN = Path('../shared/data/bids/sub-chris/anat/sub-chris_T1w.nii.gz')
LOCALISE = 'localise'
#: Functions that are measured, in the module that calls them, and what they do.
STEPS: tuple[tuple[Any, str, str], ...] = (
    (network_pass, 'prepare_scan', 'resample to the network grid'),
    (localise, 'region_to_segment', LOCALISE),
    (localise, 'predict', 'network, twice'),
    (localise, 'corrected_region', 'check the crop'),
    (clean_prediction, 'clean', 'connected components'),
    (clean_prediction, 'smooth', 'smooth'),
    (clean_prediction, 'own_steps', 'detect interpolation'),
    (clean_prediction, 'refine_alone', 'refine'),
    (segmenter, 'most_likely', 'most likely labels'),
    (segmenter, 'label_weights', 'weights of the labels'),
    (segmenter, 'unsure_sides', 'confidence'),
    (result, 'resample_labels', 'resample to the scan'),
)
#: They read places of a volume and write a list, or read both and write the places.
SPARSE = (torch.ops.aten.index_select.default, torch.ops.aten.index_add_.default)


class Traffic(TorchDispatchMode):
    """Count the bytes that operations read and write; views take none.

    Operations that look up or add to some places of a volume count for these places alone.
    """

    n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        returned = [one.alias_info for one in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returned):
            if func in SPARSE:
                places, values = args[2], found if len(args) == 3 else args[3]
                self.n_bytes += places.nbytes + (len(args) - 1) * values.nbytes
            else:
                tensors = tree_leaves((args, kwargs, found))
                self.n_bytes += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return found


def step_of(name: str, arguments: dict[str, Any]) -> str:
    """Return the step that a call belongs to: only localisation wants some of the channels."""
    return LOCALISE if 'channels' in arguments else name


def now() -> np.ndarray:
    """Return the CPU seconds of this process, and the seconds on the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def timed(
    function: Callable[..., Any], name: str, seconds: dict[str, np.ndarray]
) -> Callable[..., Any]:
    """Add up the times of a function; those of steps inside of it count for them alone."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        inner, started = sum(seconds.values()), now()
        found = function(*args, **kwargs)
        taken = now() - started
        step = step_of(name, kwargs)
        seconds[step] = seconds.get(step, 0.0) + taken - (sum(seconds.values()) - inner)
        return found

    return run


def convolution_operations(x: Any, weight: Any, *_: Any, out_shape: Any = None) -> int:
    """Count the operations of oneDNN's convolution, which PyTorch does not count."""
    return conv_flop_count(x, weight, out_shape)


def counted(
    function: Callable[..., Any], name: str, work: dict[str, tuple[float, float]]
) -> Callable[..., Any]:
    """Count the bytes and the operations of a function, in the same way."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = [sum(column) for column in zip(*work.values(), strict=True)] or [0, 0]
        extra = {torch.ops.aten.mkldnn_convolution: convolution_operations}
        operations = FlopCounterMode(display=False, custom_mapping=extra)
        with Traffic() as traffic, operations as counter:
            found = function(*args, **kwargs)
        after = [sum(column) for column in zip(*work.values(), strict=True)] or [0, 0]
        own = traffic.n_bytes - (after[0] - before[0]), counter.get_total_flops()
        step = step_of(name, kwargs)
        earlier = work.get(step, (0, 0))
        work[step] = earlier[0] + own[0], earlier[1] + own[1] - (after[1] - before[1])
        return found

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('scan', nargs='?', type=Path, default=SCAN)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'))
    args = parser.parse_args()
    restart_with_settings()
    if args.dtype:
        os.environ[DTYPE_VARIABLE] = args.dtype
    set_threads(args.threads)
    segment = segmenter.Segmenter(device='cpu')
    dtype = str(segment.engine.dtype).removeprefix('torch.')
    scan = read_volume(args.scan)
    plain = {name: getattr(module, name) for module, name, _ in STEPS}
    best: dict[str, np.ndarray] = {}
    for _ in range(args.repeats):
        seconds: dict[str, np.ndarray] = {}
        for module, name, title in STEPS:
            setattr(module, name, timed(plain[name], title, seconds))
        timed(segment.segment, 'everything else', seconds)(scan.data, scan.affine)
        best = {name: np.minimum(taken, best.get(name, taken)) for name, taken in seconds.items()}
    # What other threads do is not counted.
    set_threads(1)
    work: dict[str, tuple[float, float]] = {}
    for module, name, title in STEPS:
        setattr(module, name, counted(plain[name], title, work))
    counted(segment.segment, 'everything else', work)(scan.data, scan.affine)
    report(best, work, peaks(args), dtype)


def report(
    seconds: dict[str, np.ndarray],
    work: dict[str, tuple[float, float]],
    speeds: dict[str, float],
    dtype: str,
) -> None:
    """Print a row for each step, and one for all of them."""
    print(f'{dtype}: {speeds[dtype]:.0f} GFLOP/s, {speeds["copying"]:.1f} GB/s')
    print(f'{"step":32s}{"CPU s":>8s}{"clock s":>8s}{"GB":>8s}{"GFLOP":>8s}{"roofline":>10s}')
    rows = [*((name, *seconds[name], *work[name]) for name in seconds)]
    rows.append(('all', *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    for name, taken, clock, n_bytes, operations in rows:
        bound = max(n_bytes / 1e9 / speeds['copying'], operations / 1e9 / speeds[dtype])
        print(
            f'{name:32s}{taken:8.2f}{clock:8.2f}{n_bytes / 1e9:8.2f}{operations / 1e9:8.1f}'
            f'{bound / clock:10.0%}'
        )


if __name__ == '__main__':
    main()
