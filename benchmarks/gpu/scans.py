"""Tests that want a GPU, agreement with the CPU, and scans per second of several workers."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.measure.overlap import paper_dice

from .files import load_scan
from .part import Run

TESTS = Path(__file__).resolve().parents[2] / 'tests'
WORKERS = (1, 2, 4, 8)
#: Least mean Dice of the labels of CPU and GPU: they round differently.
AGREEMENT = 0.99


def tests(run: Run) -> None:
    """Run the tests with the marker gpu; note how many passed, failed and were skipped."""
    import pytest

    class Outcomes:
        """Counts the outcomes of tests."""

        def __init__(self) -> None:
            self.counts: Counter[str] = Counter()

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == 'call' or (report.when == 'setup' and not report.passed):
                self.counts[report.outcome] += 1
                run.note(**self.counts)

    marked = [path for path in sorted(TESTS.rglob('test_*.py')) if 'mark.gpu' in path.read_text()]
    # Other versions of PyTorch and NumPy may have other warnings.
    options = ['-q', '-m', 'gpu', '-W', 'default', '-o', 'addopts=', '-p', 'no:cacheprovider']
    outcomes = Outcomes()
    code = pytest.main([*options, *map(str, marked)], [outcomes])
    if code:
        raise SystemExit(f'{outcomes.counts["failed"]} tests failed')
    if run.device.type == 'cuda' and not outcomes.counts['passed']:
        raise SystemExit('no test was run')


def agreement(run: Run) -> None:
    """Segment a scan on the CPU and on the device; note how far the labels agree."""
    data, affine = load_scan(run.files, run.tiny)
    results = {}
    for name in ('cpu', run.device.type):
        segment = Segmenter(device=name).segment
        segment(data, affine)
        started = time.perf_counter()
        results[name] = segment(data, affine)
        run.note(**{f'{name}_s': time.perf_counter() - started})
    here, there = results['cpu'], results[run.device.type]
    brain = (here.labels > 0) | (there.labels > 0)
    dice = paper_dice(there.labels, here.labels)['mean']
    volumes = [
        abs(there.volumes_mm3[label] / volume - 1)
        for label, volume in here.volumes_mm3.items()
        if volume > 100
    ]
    run.note(
        shape=list(data.shape),
        ran_on=there.device,
        brain_voxels_that_differ=float((here.labels != there.labels)[brain].mean())
        if brain.any() else 0.0,
        dice=dice,
        largest_difference_of_volumes=max(volumes, default=0.0),
        peak_gpu_mb=there.peak_gpu_mb,
    )  # fmt: skip
    if there.device != run.device.type:
        raise SystemExit(f'segmented on {there.device}: {there.fallback}')
    if brain.any() and not run.tiny and dice < AGREEMENT:
        raise SystemExit(f'Dice of CPU and {run.device.type}: {dice:.3f}')


def throughput(run: Run) -> None:
    """Note scans per second of 1 to 8 processes that share the device."""
    data, affine = load_scan(run.files, run.tiny)
    rows: list[dict[str, Any]] = []
    numbers = WORKERS[:2] if run.tiny else WORKERS
    run.note(shape=list(data.shape), cpus=os.cpu_count(), data_type=str(data.dtype))
    for i, workers in enumerate(numbers):
        seconds = run.left / (len(numbers) - i) if not run.tiny else 600.0
        rows.append(_share_device(run, workers, data, affine, seconds))
        run.note(rows=rows)


def _share_device(
    run: Run, workers: int, data: np.ndarray, affine: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Segment a scan again and again in several processes, within some seconds."""
    context = multiprocessing.get_context('spawn')
    ready, done = context.Barrier(workers), context.Queue()
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Half of the time is for starting.
    measured = 0.5 if run.tiny else seconds / 2
    arguments = (run.device.type, threads, data, affine, measured, ready, done)
    processes = [context.Process(target=_segment_often, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        found = [done.get(timeout=seconds) for _ in processes]
    except Empty:
        raise SystemExit(f'{workers} workers: none answered in {seconds:.0f} s') from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    rate = sum(scans / taken for scans, taken in found)
    return {'workers': workers, 'threads': threads, 'scans_per_s': rate,
            'scans': sum(scans for scans, _ in found)}  # fmt: skip


def _segment_often(
    device: str, threads: int, data: np.ndarray, affine: np.ndarray, seconds: float,
    ready: Any, done: Any,
) -> None:  # fmt: skip
    """Count the scans of one process, once all are ready."""
    segment = Segmenter(device=device, threads=threads, gpu_fallback=False).segment
    segment(data, affine)
    ready.wait()
    started, scans = time.perf_counter(), 0
    while not scans or time.perf_counter() - started < seconds:
        segment(data, affine)
        scans += 1
    if device == 'cuda':
        torch.cuda.synchronize()
    done.put((scans, time.perf_counter() - started))
