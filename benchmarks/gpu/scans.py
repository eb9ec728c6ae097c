"""Agreement of the labels with the CPU's, and scans per second of several workers."""

from __future__ import annotations

import multiprocessing
import os
import time
from queue import Empty
from typing import Any

import numpy as np
import torch

from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.measure.overlap import paper_dice
from synthseg_bids.models import DEFAULT_MODEL
from synthseg_bids.models.card import ModelCard, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D

from .files import load_scan
from .part import Run

WORKERS = (1, 2, 4, 8)
#: Least mean Dice of the labels of CPU and GPU: they round differently.
AGREEMENT = 0.99
#: Volumes from which on they are compared.
LARGE_MM3 = 100


def agreement(run: Run) -> None:
    """Segment a scan on the CPU and on the device; note how far the labels agree."""
    data, affine = load_scan(run.files, run.tiny)
    results, model = {}, _model(run)
    for name in ('cpu', run.device.type):
        segment = Segmenter(model, device=name).segment
        if not run.tiny:
            segment(data, affine)
        started = time.perf_counter()
        results[name] = segment(data, affine)
        run.note(**{f'{name}_s': time.perf_counter() - started})
    here, there = results['cpu'], results[run.device.type]
    brain = (here.labels > 0) | (there.labels > 0)
    dice = paper_dice(there.labels, here.labels)['mean'] if brain.any() else None
    large = here.volumes_mm3 > LARGE_MM3
    ratios = there.volumes_mm3[large] / here.volumes_mm3[large]
    run.note(
        shape=list(data.shape),
        ran_on=there.device,
        brain_voxels_that_differ=float((here.labels != there.labels).sum() / max(brain.sum(), 1)),
        dice=dice,
        largest_difference_of_volumes=float(np.abs(ratios - 1).max(initial=0)),
        peak_gpu_mb=there.peak_gpu_mb,
    )
    if there.device != run.device.type:
        raise SystemExit(f'segmented on {there.device}: {there.fallback}')
    if not run.tiny and (dice is None or dice < AGREEMENT):
        raise SystemExit(f'Dice of the labels of CPU and {run.device.type}: {dice}')


def _model(run: Run) -> str:
    """Return the shipped model; for a rehearsal a tiny one of random weights, in a file."""
    if not run.tiny:
        return DEFAULT_MODEL
    path = run.out / 'tiny.safetensors'
    torch.manual_seed(0)
    config = NetworkConfig(features=4, levels=3, norm='instance', norm_placement='conv')
    save_model(path, UNet3D(config), ModelCard('tiny', config, 1.0))
    return str(path)


def throughput(run: Run) -> None:
    """Note scans per second of 1 to 8 processes that share the device."""
    data, affine = load_scan(run.files, run.tiny)
    rows: list[dict[str, Any]] = []
    numbers = WORKERS[1:2] if run.tiny else WORKERS
    run.note(shape=list(data.shape), cpus=os.cpu_count(), data_type=str(data.dtype))
    for i, workers in enumerate(numbers):
        seconds = run.left / (len(numbers) - i) if not run.tiny else 600.0
        rows.append(_share_device(run, workers, (data, affine), seconds))
        run.note(rows=rows)


def _share_device(
    run: Run, workers: int, scan: tuple[np.ndarray, np.ndarray], seconds: float
) -> dict[str, Any]:
    """Segment a scan again and again in several processes, within some seconds."""
    context = multiprocessing.get_context('spawn')
    ready, done = context.Barrier(workers), context.Queue()
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Half of the time is for starting.
    measured = 0.5 if run.tiny else seconds / 2
    settings = {
        'model': _model(run),
        'device': run.device.type,
        'threads': threads,
        'gpu_fallback': False,
    }
    arguments = (settings, scan, measured, ready, done)
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
    settings: dict[str, Any],
    scan: tuple[np.ndarray, np.ndarray],
    seconds: float,
    ready: Any,
    done: Any,
) -> None:
    """Count the scans of one process, once all are ready."""
    segment = Segmenter(**settings).segment
    segment(*scan)
    ready.wait()
    started, scans = time.perf_counter(), 0
    while not scans or time.perf_counter() - started < seconds:
        segment(*scan)
        scans += 1
    done.put((scans, time.perf_counter() - started))
