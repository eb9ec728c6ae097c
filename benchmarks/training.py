"""Speed of training, with more threads, processes and GPUs; writes docs/training.tsv and .rst.

Usage: python benchmarks/training.py [--model NAME] [--steps N] [--rows NAME ...]

Every row is measured in processes of its own, one row after the other; nothing else should run.
Only the end of docs/training.rst is written anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from page import cpu_name, table

from synthseg_bids.files import write_table, write_text
from synthseg_bids.hardware.processes import prepare_processes
from synthseg_bids.models.registry import load_model

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / 'docs/training.rst'
MARK = '.. What follows is written by benchmarks/training.py; do not edit.\n'


@dataclass(frozen=True)
class Row:
    """Number of processes, and threads or GPUs of each, of one measurement."""

    processes: int = 1
    threads: int = 1
    gpu: bool = False
    compile: bool = False

    @property
    def missing(self) -> str:
        """Return why it cannot be measured here; empty if it can."""
        found = torch.cuda.device_count()
        if not self.gpu or found >= self.processes:
            return ''
        return f'not measured: {found or "no"} GPU'

    def command(self, model: str, steps: int) -> list[str]:
        """Return the command that measures it."""
        launcher = [sys.executable]
        if self.processes > 1:
            launcher += ['-m', 'torch.distributed.run', '--standalone']
            launcher += ['--local-addr', '127.0.0.1', '--nproc-per-node', str(self.processes)]
        words = ['--model', model, '--steps', str(steps), '--threads', str(self.threads)]
        words += ['--device', 'cuda' if self.gpu else 'cpu', *['--compile'] * self.compile]
        return [*launcher, str(HERE / 'training_rows.py'), *words]


ROWS = {
    'cpu-1': Row(),
    'cpu-1-threads-2': Row(threads=2),
    'cpu-2': Row(processes=2),
    'gpu-1': Row(gpu=True),
    'gpu-1-compiled': Row(gpu=True, compile=True),
    'gpu-2-compiled': Row(processes=2, gpu=True, compile=True),
}
#: Row that others are a multiple of.
FIRST = {False: 'cpu-1', True: 'gpu-1'}
COLUMNS = (
    *('row', 'processes', 'threads', 'device', 'compiled', 'dtype', 'samples_per_s', 'times_one'),
    *('generator', 'forward', 'backward', 'optimizer', 'gflop_per_step', 'gflops', 'peak_gflops'),
    *('model', 'steps', 'missing'),
)


def measure(row: Row, model: str, steps: int) -> dict[str, object]:
    if row.missing:
        return {'missing': row.missing}
    environment = {**os.environ, 'OMP_NUM_THREADS': str(row.threads)}
    command = row.command(model, steps)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{" ".join(command)}:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='default', help='a shipped model: trained as it was')
    parser.add_argument('--steps', type=int, default=10, help='for each number in the table')
    parser.add_argument('--rows', nargs='*', default=list(ROWS), choices=ROWS)
    parser.add_argument('--out', type=Path, default=PAGE)
    args = parser.parse_args()
    prepare_processes()
    model = load_model(args.model)[1].name
    found = {name: measure(ROWS[name], model, args.steps) for name in args.rows}
    lines = []
    for name, result in found.items():
        row = ROWS[name]
        one = found.get(FIRST[row.gpu], {}).get('samples_per_s')
        speed = result.get('samples_per_s')
        line = {
            'row': name,
            'processes': row.processes,
            'threads': row.threads,
            'compiled': int(row.compile),
            'times_one': speed / one if speed and one else None,
            'model': model,
            'steps': args.steps,
            **result,
        }
        if not row.gpu:
            line['device'] = cpu_name()
        lines.append({key: round_number(value) for key, value in line.items()})
        print(json.dumps(lines[-1]))
    write_table(args.out.with_suffix('.tsv'), COLUMNS, lines)
    before = args.out.read_text().partition(MARK)[0] if args.out.exists() else ''
    write_text(args.out, before + MARK + measured(lines))


def round_number(value: object) -> object:
    return float(f'{value:.3g}') if isinstance(value, float) else value


def measured(lines: list[dict[str, object]]) -> str:
    """Return the part of the page with what was measured."""
    header = ['Processes', 'Threads of each', 'Samples/s', 'Times the first', 'Generator']
    header += ['Forward', 'Backward', 'Optimiser', 'GFLOP/s', 'Of matrices']
    tables = []
    for gpu in (False, True):
        rows = [line for line in lines if ROWS[str(line['row'])].gpu is gpu]
        devices = {line['device'] for line in rows if 'device' in line}
        title = ', '.join([*map(str, devices)] or ['GPU'])
        tables.append(table(title, header, [cells(line) for line in rows]))
    first = next((line for line in lines if 'gflop_per_step' in line), {})
    facts = {
        'Network and generator': f'of the shipped model ``{first.get("model")}``',
        'Number format of the network': str(first.get('dtype')),
        'Operations of a sample, forward and backward': f'{first.get("gflop_per_step")} GFLOP',
    }
    return '\n' + '\n'.join([*tables, *(f':{name}: {value}' for name, value in facts.items()), ''])


def cells(line: dict[str, object]) -> list[str]:
    row = ROWS[str(line['row'])]
    start = [f'{row.processes}{", compiled" * row.compile}', '' if row.gpu else str(row.threads)]
    if 'missing' in line:
        return [*start, str(line['missing']), *[''] * 7]
    shares = [f'{float(str(line[name])):.0%}' for name in COLUMNS[8:12]]
    speed, peak = (float(str(line[name])) for name in ('gflops', 'peak_gflops'))
    numbers = [str(line['samples_per_s']), str(line['times_one'] or '')]
    return [*start, *numbers, *shares, str(line['gflops']), f'{speed / peak:.0%}']


if __name__ == '__main__':
    main()
