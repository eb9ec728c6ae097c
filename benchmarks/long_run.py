"""Segment many real-size scans in one run of the app; memory and files over time.

Usage: python benchmarks/long_run.py [--scans 100] [--nprocs 2] [--scan FILE] [--fast] ...

All scans are one and the same file. Memory is that of the app and all its processes, looked at
every second; the median of each tenth of the run shows whether it grows. The run has a folder of
its own for temporary files, which are counted when it has ended. Writes docs/long_run.tsv and
docs/scale.rst.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import psutil
from page import cpu_name
from scale import HERE, SCAN, Dataset, Row, count_files
from scale_page import write_page

from synthseg_bids import __version__
from synthseg_bids.files import write_table

INTERVAL_S = 1.0
PARTS = 10


class Sampler(threading.Thread):
    """Look at memory and open files of this process's descendants until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self.samples: list[tuple[float, int]] = []

    def run(self) -> None:
        """Add a sample every second: MB of memory that no other process shares, open files."""
        while not self.stopped.wait(INTERVAL_S):
            memory, files = 0.0, 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    memory += process.memory_full_info().uss / 2**20
                    files += process.num_fds()
            self.samples.append((memory, files))

    def medians(self) -> list[tuple[float, float]]:
        """Return the medians of memory and of open files in each tenth of the run."""
        n = len(self.samples)
        parts = [self.samples[i * n // PARTS : (i + 1) * n // PARTS] for i in range(PARTS)]
        return [
            (statistics.median(m for m, _ in part), statistics.median(f for _, f in part))
            for part in parts
            if part
        ]


def measure(args: argparse.Namespace, folder: Path) -> list[Row]:
    """Run the app; return a line for each tenth of the run."""
    dataset = Dataset(folder, args.scans, args.scan, args.model, args.nprocs)
    sampler = Sampler()
    # Not below the dataset: names of sockets are short.
    with (
        tempfile.TemporaryDirectory(prefix='run-') as temporary,
        patch.dict(os.environ, TMPDIR=temporary),
    ):
        sampler.start()
        used = dataset.start(*(['--fast'] if args.fast else []))
        left = count_files(Path(temporary))[0]
    sampler.stopped.set()
    sampler.join()
    summary: Row = {
        'scans': args.scans,
        'nprocs': args.nprocs,
        'fast': args.fast,
        'seconds': round(used.seconds, 1),
        'scans_per_minute': round(60 * args.scans / used.seconds, 2),
        'cpu_seconds_per_scan': round(used.cpu_seconds / args.scans, 2),
        'temporary_files_left': left,
        'load': round(used.load, 1),
        'cpu': cpu_name(),
        'version': __version__,
    }
    return [
        {'tenth': number, 'memory_mb': round(memory), 'open_files': round(files), **summary}
        for number, (memory, files) in enumerate(sampler.medians(), 1)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--scans', type=int, default=100, help='number of scans')
    add('--nprocs', type=int, default=len(os.sched_getaffinity(0)), help='processors to use')
    add('--scan', type=Path, default=SCAN, help='the scan, which is taken many times')
    add('--model', default='default', help='name of a shipped model, or a .safetensors file')
    add('--fast', action='store_true', help='without mirrored passes')
    add('--work', type=Path, help='folder for dataset and outputs (default: a temporary one)')
    add('--docs', type=Path, default=HERE.parent / 'docs', help='where the table goes')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix='long-run-', dir=args.work) as folder:
        rows = measure(args, Path(folder))
    for row in rows:
        print('\t'.join(f'{key}={value}' for key, value in row.items()), flush=True)
    write_table(args.docs / 'long_run.tsv', tuple(rows[0]), rows)
    write_page(args.docs)
    return 0


if __name__ == '__main__':
    sys.exit(main())
