"""Time and memory of inference beside the other implementations; writes docs/speed.tsv.

Usage: python benchmarks/inference.py [--scan FILE] [--size N] [--threads N] [--rows NAME ...]

Every row is measured in a process of its own, one after the other; nothing else should run. The
rows of TensorFlow need its environment ($KERAS_PYTHON, see make bench), those of DIPY its package.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from gpu.page import with_gpu_section
from page import cpu_name, render

from synthseg_bids.files import write_table, write_text
from synthseg_bids.hardware.device import fast_dtype
from synthseg_bids.hardware.processes import VARIABLE, prepare_processes

HERE = Path(__file__).resolve().parent
SCAN = Path('../shared/data/bids/sub-chris/anat/sub-chris_T1w.nii.gz')
NETWORK = 'the network of the paper (24 features), one forward pass of {size}^3 voxels'
GENERATOR = 'a synthetic scan of 160^3 voxels from a label map of 256^3'
PIPELINE = 'a whole scan at 1 mm, mirrored pass included, random weights'
#: Row of inference_rows.py, what it is, and of which row its time is a multiple.
ROWS = {
    'network-tensorflow': (NETWORK, 'TensorFlow 2.15, float32', None),
    'network-plain-float32': (NETWORK, 'plain PyTorch, float32', 'network-tensorflow'),
    'network-plain-bfloat16': (NETWORK, 'plain PyTorch, bfloat16', 'network-tensorflow'),
    'network-ours-float32': (NETWORK, 'ours, float32', 'network-tensorflow'),
    'network-ours-bfloat16': (NETWORK, 'ours, bfloat16', 'network-tensorflow'),
    'network-ours-bfloat16-given-back': (
        NETWORK, 'ours, bfloat16, memory given back', 'network-tensorflow'
    ),
    'network-ours-float32-flip': (NETWORK, 'ours, float32, with mirrored pass', None),
    'network-ours-bfloat16-flip': (NETWORK, 'ours, bfloat16, with mirrored pass', None),
    'ideas-bfloat16': (NETWORK, 'without ideas', None),
    'pipeline-dipy': (PIPELINE, 'DIPY, SynthSeg.predict', None),
    'pipeline-ours-float32': (PIPELINE, 'ours, float32', 'pipeline-dipy'),
    'pipeline-ours': (PIPELINE, 'ours, fastest number format', 'pipeline-dipy'),
    'pipeline-ours-given-back': (
        PIPELINE, 'ours, fastest number format, memory given back', 'pipeline-dipy'
    ),
    'pipeline-shipped': ('the same scan', 'ours, shipped model', 'pipeline-dipy'),
    'pipeline-shipped-fast': ('the same scan', 'ours, shipped model, --fast', None),
    'pipeline-command': ('the same scan', 'synthseg segment, start and files included', None),
    'generator-tensorflow': (GENERATOR, 'TensorFlow 2.15', None),
    'generator-ours': (GENERATOR, 'ours, the same preset', 'generator-tensorflow'),
    'generator-ours-shipped': (GENERATOR, "ours, the shipped model's preset", None),
    'network-ours-cuda-flip': (NETWORK, 'ours, GPU, with mirrored pass', 'network-tensorflow'),
    'pipeline-shipped-cuda': ('the same scan', 'ours, shipped model, GPU', 'pipeline-dipy'),
}  # fmt: skip
#: Speeds that bound a pass, bytes of a number, the row that they bound, and its passes.
BOUNDS = (
    ('float32', 4, 'network-ours-float32', 1),
    ('bfloat16', 2, 'network-ours-bfloat16', 1),
    ('GPU', 2, 'network-ours-cuda-flip', 2),
)
#: Rows that run with the default settings of the C library.
AS_IS = ('tensorflow', 'dipy', 'given-back')
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
    if any(word in row for word in AS_IS):
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


def transfers(size: int, n_bytes: int) -> float:
    """Count the bytes of a pass in which every layer reads and writes memory once, in 10^9.

    Activations are made where they lie, in the caches; so are the four kernels' parts of what
    comes from below.

    Parameters
    ----------
    size : int
    n_bytes : int
        Of a number; the posteriors have four.
    """
    total = 0.0
    for level in range(5):
        voxels, n = (size / 2**level) ** 3, 24 * 2**level
        inputs = 1 if level == 0 else n // 2
        total += voxels * (inputs + 3 * n)  # two convolutions
        if level < 4:
            total += voxels * n * (1 + 1 / 8)  # pooling, its output normalised on the way
            # Of the skip connection; of what comes from below, eight times smaller, four times;
            # their sum; the second convolution; the normalisation.
            total += voxels * n * (2 + 4 * 2 / 8 + 2 + 2 + 2)
    return (n_bytes * total + 4 * size**3 * 33) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scan', type=Path, default=SCAN)
    parser.add_argument('--size', type=int, default=192)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rows', nargs='*', default=list(ROWS), choices=ROWS)
    parser.add_argument('--out', type=Path, default=HERE.parent / 'docs/speed.tsv')
    args = parser.parse_args()
    prepare_processes()
    rows = args.rows
    if fast_dtype(torch.device('cpu')) == torch.float32:
        rows = [row for row in rows if 'bfloat16' not in row]
    if not torch.cuda.is_available():
        rows = [row for row in rows if 'cuda' not in row]
    with tempfile.TemporaryDirectory() as folder:
        scan = args.scan
        if not scan.exists():
            scan = Path(folder, 'scan.nii.gz')
            data = np.random.default_rng(0).random((192, 224, 192), dtype=np.float32)
            nib.save(nib.Nifti1Image(data, np.eye(4)), scan)
        peaks = measure('peaks', args, scan) or {}
        found = {row: result for row in rows if (result := measure(row, args, scan))}
        ideas = found.pop('ideas-bfloat16', {})
    lines = []
    for row, result in found.items():
        what, implementation, base = ROWS[row]
        times = found[base]['seconds'] / result['seconds'] if base in found else None
        lines.append({
            'what': what.format(size=args.size),
            'implementation': implementation,
            'seconds': round(result['seconds'], 2),
            'first_seconds': round(result['first_s'], 2),
            'peak_gb': round(result['peak_gb'], 2),
            'times_faster': None if times is None else round(times, 2),
            'cpu': cpu_name(),
            'threads': args.threads,
            'settings': None if any(w in row for w in AS_IS) else os.environ.get(VARIABLE),
        })  # fmt: skip
    for row in args.rows:
        if row not in rows and 'cuda' in row:
            what, implementation, _ = ROWS[row]
            name = f'{implementation} (not yet measured)'
            lines.append({'what': what.format(size=args.size), 'implementation': name})
    if lines or ideas:
        write_table(args.out, COLUMNS, lines)
        facts = {'CPU': f'{cpu_name()}, {args.threads} threads'}
        facts |= machine_facts(args.size, peaks, found)
        text = page(lines, facts, ideas)
        write_text(args.out.with_suffix('.rst'), text)
        print(text[text.index('.. csv-table') : text.index('What makes the difference')])


def machine_facts(
    size: int, peaks: dict[str, float], found: dict[str, dict[str, float]]
) -> dict[str, str]:
    """Return what bounds a forward pass: its arithmetic and its transfers on this machine."""
    work = operations(size, False)
    facts = {
        'Operations as the network is written': f'{operations(size, True):.2f} T',
        'Operations as it is computed': f'{work:.2f} T',
    }
    for name, n_bytes, row, passes in BOUNDS:
        if name not in peaks:
            continue
        speed = peaks[f'copying, {name}' if name == 'GPU' else 'copying']
        moved = transfers(size, n_bytes)
        computing, copying = 1000 * work / peaks[name], moved / speed
        facts |= {
            f'Large matrices, {name}': f'{peaks[name]:.0f} GFLOP/s: {computing:.2f} s',
            f'Transfers, {name}': f'{moved:.1f} GB at {speed:.1f} GB/s: {copying:.2f} s',
        }
        if row in found:
            share = passes * max(computing, copying) / found[row]['seconds']
            facts[f'Share of the roofline, {name}'] = f'{100 * share:.0f} %'
    return facts


def page(lines: list[dict[str, object]], facts: dict[str, str], ideas: dict[str, float]) -> str:
    """Return the page of documentation with what was measured."""
    tables: dict[str, list[list[object]]] = {}
    for line in lines:
        cells = (line.get(c) for c in ('seconds', 'first_seconds', 'peak_gb', 'times_faster'))
        row = [line['implementation'], *('' if c is None else c for c in cells)]
        tables.setdefault(str(line['what']), []).append(row)
    passes = [(name, f'{seconds:.2f}') for name, seconds in ideas.items()]
    return with_gpu_section(render('speed', tables=tables, facts=facts, ideas=passes))


if __name__ == '__main__':
    main()
