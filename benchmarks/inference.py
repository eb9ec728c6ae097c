"""Time and memory of inference beside the other implementations; writes docs/speed.tsv.

Usage: python benchmarks/inference.py [--scan FILE] [--size N] [--threads N] [--rows NAME ...]

Every row is measured in a process of its own, one after the other; nothing else should run. The
rows of TensorFlow need its environment ($KERAS_PYTHON, see make bench), those of DIPY its package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from synthseg_bids.bids.atomic import write_table
from synthseg_bids.cli.launch import VARIABLE, keep_memory
from synthseg_bids.device import fast_dtype

HERE = Path(__file__).resolve().parent
SCAN = Path('../shared/data/bids/sub-chris/anat/sub-chris_T1w.nii.gz')
NETWORK = 'the network of the paper (24 features), one forward pass of {size}^3 voxels'
PIPELINE = 'a whole scan at 1 mm, mirrored pass included, random weights'
#: Row of inference_rows.py, what it is, and of which row its time is a multiple.
ROWS = {
    'network-tensorflow': (NETWORK, 'TensorFlow 2.15, float32', None),
    'network-plain-float32': (NETWORK, 'plain PyTorch, float32', 'network-tensorflow'),
    'network-plain-bfloat16': (NETWORK, 'plain PyTorch, bfloat16', 'network-tensorflow'),
    'network-ours-float32': (NETWORK, 'ours, float32', 'network-tensorflow'),
    'network-ours-bfloat16': (NETWORK, 'ours, bfloat16', 'network-tensorflow'),
    'network-ours-float32-flip': (NETWORK, 'ours, float32, with mirrored pass', None),
    'network-ours-bfloat16-flip': (NETWORK, 'ours, bfloat16, with mirrored pass', None),
    'pipeline-dipy': (PIPELINE, 'DIPY, SynthSeg.predict', None),
    'pipeline-ours-float32': (PIPELINE, 'ours, float32', 'pipeline-dipy'),
    'pipeline-ours': (PIPELINE, 'ours, fastest number format', 'pipeline-dipy'),
    'pipeline-shipped': ('the same scan', 'ours, shipped model', 'pipeline-dipy'),
}
COLUMNS = (
    *('what', 'implementation', 'seconds', 'first_seconds', 'peak_gb', 'times_faster'),
    *('cpu', 'threads', 'settings'),
)


def measure(row: str, args: argparse.Namespace, scan: Path) -> dict[str, float] | None:
    """Run a row; None where what it needs is missing."""
    python = sys.executable
    environment = dict(os.environ)
    if 'tensorflow' in row:
        python = os.environ.get('KERAS_PYTHON', '')
        environment.pop(VARIABLE, None)  # as its users run it
    if 'dipy' in row:
        environment.pop(VARIABLE, None)
    options = ['--size', str(args.size), '--scan', str(scan), '--threads', str(args.threads)]
    if not python:
        return None
    command = [python, str(HERE / 'inference_rows.py'), row, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f'{row}: {done.stderr.strip().splitlines()[-1]}', file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def operations(size: int, joined: bool) -> float:
    """Count the multiplications and additions of one forward pass, in units of 10^12.

    Parameters
    ----------
    size : int
        Side of the image in voxels.
    joined : bool
        Whether decoders see the concatenation on the fine grid, rather than its parts.
    """
    total = 0.0
    for level in range(5):
        voxels, n = (size / 2**level) ** 3, 24 * 2**level
        inputs = 1 if level == 0 else n // 2
        total += voxels * 27 * (inputs * n + n * n)
        if level < 4:
            # 2n channels come from below: 27 weights each, or 8 on the coarse grid.
            below = 27 * 2 * n * n if joined else 8 * 2 * n * n
            total += voxels * (27 * n * n + below + 27 * n * n)
    return 2 * (total + size**3 * 24 * 33) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scan', type=Path, default=SCAN)
    parser.add_argument('--size', type=int, default=192)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rows', nargs='*', default=list(ROWS), choices=ROWS)
    parser.add_argument('--out', type=Path, default=HERE.parent / 'docs/speed.tsv')
    args = parser.parse_args()
    keep_memory()
    rows = args.rows
    if fast_dtype(torch.device('cpu')) == torch.float32:
        rows = [row for row in rows if 'bfloat16' not in row]
    with tempfile.TemporaryDirectory() as folder:
        scan = args.scan
        if not scan.exists():
            scan = Path(folder, 'scan.nii.gz')
            data = np.random.default_rng(0).random((192, 224, 192), dtype=np.float32)
            nib.save(nib.Nifti1Image(data, np.eye(4)), scan)
        peak = measure('peak-gflops', args, scan) or {}
        found = {row: result for row in rows if (result := measure(row, args, scan))}
    table = []
    for row, result in found.items():
        what, implementation, base = ROWS[row]
        times = found[base]['seconds'] / result['seconds'] if base in found else None
        table.append({
            'what': what.format(size=args.size),
            'implementation': implementation,
            'seconds': round(result['seconds'], 2),
            'first_seconds': round(result['first_s'], 2),
            'peak_gb': round(result['peak_gb'], 2),
            'times_faster': None if times is None else round(times, 2),
            'cpu': processor(),
            'threads': args.threads,
            'settings': os.environ.get(VARIABLE) if 'ours' in implementation else None,
        })  # fmt: skip
        print(f'{what.format(size=args.size)}\n  {implementation:36}', end='')
        print(f'{result["seconds"]:8.2f} s  first {result["first_s"]:.2f} s', end='')
        print(f'  {result["peak_gb"]:.2f} GB' + (f'  {times:.2f} times faster' if times else ''))
    if table:
        write_table(args.out, COLUMNS, table)
    print(f'operations: {operations(args.size, True):.2f} T as written, ', end='')
    print(f'{operations(args.size, False):.2f} T as computed; large matrices: ', end='')
    print(', '.join(f'{name} {speed:.0f} GFLOP/s' for name, speed in peak.items()))


def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(': ')[1] for line in lines if 'model name' in line), 'unknown')


if __name__ == '__main__':
    main()
