"""Measure scans per minute with 1, 2 and 4 processes beside a device; add to docs/scale.rst.

Usage: python benchmarks/throughput.py [--workers 1 2 4] [--scans 8] [--scan FILE] [--model NAME]

The device is the first GPU, and a stand-in for one in any case: a thread of the CPU, which is
locked and counted as a GPU is. Where there is no GPU, its lines say so. Lines of
docs/throughput.tsv are replaced by new ones of the same device and number of processes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from page import cpu_name
from scale import HERE, SCAN, Dataset
from scale_page import NOT_MEASURED, THROUGHPUT_COLUMNS, write_page

from synthseg_bids import __version__
from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.plan import plan_outputs
from synthseg_bids.bids.query import find_images
from synthseg_bids.files import read_table, write_table
from synthseg_bids.hardware.processes import prepare_processes
from synthseg_bids.images.volume_io import read_volume
from synthseg_bids.models.registry import model_path
from synthseg_bids.workflows import Resources
from synthseg_bids.workflows.runner import Ledger, execute

Row = dict[str, object]


@dataclass(frozen=True)
class StandIn(Resources):
    """Resources whose device is treated as a GPU, even if it is a CPU."""

    @property
    def use_gpu(self) -> bool:
        """Return True for every device."""
        return True


class Clock(Ledger):
    """Ledger that also records when each image is done."""

    def __init__(self, images: Sequence[ImageRecord]) -> None:
        super().__init__(images)
        self.ends: list[float] = []

    def on_status(self, node: Any, status: str) -> None:
        """Record that a node started or ended; called by Nipype."""
        super().on_status(node, status)
        if status == 'end' and node.name == 'save':
            self.ends.append(time.monotonic())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, add to the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--workers', type=int, nargs='+', default=[1, 2, 4], help='processes beside the device')
    add('--scans', type=int, default=8, help='to segment for every line; 2 at least')
    add('--scan', type=Path, default=SCAN, help='the scan, which is taken many times')
    add('--model', default='default', help='name of a shipped model, or a .safetensors file')
    add('--work', type=Path, help='folder for outputs (default: a temporary one)')
    add('--docs', type=Path, default=HERE.parent / 'docs', help='where table and page go')
    args = parser.parse_args(argv)
    prepare_processes()
    logging.disable(logging.WARNING)
    try:
        measure_all(args)
    finally:
        logging.disable(logging.NOTSET)
    write_page(args.docs)
    return 0


def measure_all(args: argparse.Namespace) -> None:
    """Measure what there is, and add it to the table."""
    shape = 'x'.join(str(length) for length in read_volume(args.scan).data.shape)
    about = {
        'scan': shape,
        'model': Path(args.model).stem,
        'cpus': len(os.sched_getaffinity(0)),
        'cpu': cpu_name(),
        'version': __version__,
    }
    for device in ('cuda:0', 'cpu'):
        for workers in args.workers:
            with tempfile.TemporaryDirectory(prefix='throughput-', dir=args.work) as folder:
                row = measure(args, device, workers, Path(folder)) | about
            print('\t'.join(f'{key}={value}' for key, value in row.items()), flush=True)
            add_row(args.docs / 'throughput.tsv', row)


def measure(args: argparse.Namespace, device: str, workers: int, folder: Path) -> Row:
    """Return a line of the table."""
    if device == 'cpu':
        name = 'CPU'
    elif torch.cuda.is_available():
        name = f'GPU {torch.cuda.get_device_name(device)}'
    else:
        return {'device': 'GPU', 'workers': workers, 'scans_per_minute': NOT_MEASURED}
    dataset = Dataset(folder, args.scans, args.scan, args.model, workers)
    images, _ = plan_outputs(find_images(dataset.raw)[0], {})
    clock = Clock(images)
    logs = dataset.out / 'logs' / 'run'
    logs.mkdir(parents=True)
    execute(
        images,
        clock,
        dataset.out,
        base_dir=folder / 'work',
        name='throughput_wf',
        log_dir=logs,
        resources=StandIn((device,), nprocs=workers, lock_dir=str(folder / 'locks')),
        monitor=True,
        model=str(model_path(args.model).absolute()),
    )
    if len(clock.ends) < args.scans:
        raise SystemExit(f'{args.scans - len(clock.ends)} scans failed on {name}')
    used = sum(float(row['cpu_seconds']) for row in read_table(logs / 'resources.tsv'))
    seconds = clock.ends[-1] - clock.ends[0]
    return {
        'device': name,
        'workers': workers,
        'scans': args.scans,
        'scans_per_minute': round(60 * (args.scans - 1) / seconds, 2),
        'seconds': round(seconds, 4),
        'cpu_seconds_per_scan': round(used / args.scans, 2),
        'load': round(os.getloadavg()[0], 1),
    }


def add_row(path: Path, row: Row) -> None:
    """Add a line to the table; it replaces the one of the same device and processes."""
    gpu = str(row['device']).startswith('GPU')
    rows = [
        old
        for old in read_table(path)
        if (old['device'].startswith('GPU'), old['workers']) != (gpu, str(row['workers']))
    ]
    write_table(path, THROUGHPUT_COLUMNS, [*rows, row])


if __name__ == '__main__':
    sys.exit(main())
