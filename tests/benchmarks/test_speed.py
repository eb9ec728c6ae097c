"""The page of benchmarks/inference.py: its counts, its rows, its tables. Nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import inference as benchmark
import pytest
import torch
from inference_rows import ROWS
from torch.utils.flop_counter import FlopCounterMode

from synthseg_bids.models.unet import UNet3D

SCRIPT = Path(benchmark.__file__)


def test_operations_are_those_of_the_network():
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        UNet3D().eval()(torch.zeros(1, 1, 32, 32, 32))
    assert benchmark.operations(32, True) == pytest.approx(counter.get_total_flops() / 1e12)


def test_less_is_computed_and_moved_where_numbers_are_shared_or_short():
    assert benchmark.operations(192, False) < 0.75 * benchmark.operations(192, True)
    wide, short = (benchmark.transfers(192, n_bytes) for n_bytes in (4, 2))
    # The posteriors alone: 33 of four bytes a voxel.
    posteriors = 33 * 4 * 192**3 / 1e9
    assert wide - posteriors == pytest.approx(2 * (short - posteriors))
    assert short > 2 * posteriors


def test_every_row_can_be_measured():
    assert set(benchmark.ROWS) == set(ROWS) - {'peaks'}
    assert {base for _, _, base in benchmark.ROWS.values()} - {None} <= set(ROWS)


def test_the_slowest_bound_is_the_roofline():
    peaks = {'float32': 100.0, 'copying': 1.0}
    found = {'network-ours-float32': {'seconds': 100.0}}
    facts = benchmark.machine_facts(192, peaks, found)
    moved = benchmark.transfers(192, 4)
    assert facts['Transfers, float32'] == f'{moved:.1f} GB at 1.0 GB/s: {moved:.2f} s'
    bound = max(moved, 10 * benchmark.operations(192, False))
    assert facts['Share of the roofline, float32'] == f'{bound:.0f} %'
    assert 'Transfers, bfloat16' not in facts


def test_a_gpu_has_a_roofline_of_its_own():
    peaks = {'GPU': 5e5, 'copying': 10.0, 'copying, GPU': 2000.0}
    found = {'network-ours-cuda-flip': {'seconds': 0.1}}
    facts = benchmark.machine_facts(192, peaks, found)
    bound = max(benchmark.transfers(192, 2) / 2000, benchmark.operations(192, False) / 500)
    assert facts['Share of the roofline, GPU'] == f'{2 * bound / 0.1:.0%}'.replace('%', ' %')


@pytest.mark.slow
def test_a_row_is_measured_in_a_process_of_its_own():
    command = [sys.executable, SCRIPT.with_name('inference_rows.py'), 'network-ours-float32']
    command += ['--size', '16', '--threads', '1']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found['seconds'] > 0
    assert 0 < found['peak_gb'] < 4


def test_page_and_table(tmp_path, monkeypatch, capsys):
    """A row that cannot be measured is left out."""
    monkeypatch.delenv('KERAS_PYTHON', raising=False)
    measured = {
        'network-plain-float32': {'seconds': 8.0, 'first_s': 9.0, 'peak_gb': 3.0},
        'network-tensorflow': {'seconds': 16.0, 'first_s': 20.0, 'peak_gb': 7.5},
        'ideas-bfloat16': {'all of them': 2.0, 'without Winograd': 2.5},
    }
    monkeypatch.setattr(benchmark, 'measure', lambda row, args, scan: measured.get(row))
    monkeypatch.setattr(benchmark, 'prepare_processes', lambda: None)
    monkeypatch.setattr(benchmark, 'fast_dtype', lambda device: torch.bfloat16)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', ['inference.py', '--out', str(tmp_path / 'speed.tsv')])
    benchmark.main()
    page = (tmp_path / 'speed.rst').read_text()
    assert '"plain PyTorch, float32", "8.0", "9.0", "3.0", "2.0"' in page
    assert '"without Winograd", "2.50"' in page
    assert 'DIPY, SynthSeg' not in page
    printed = capsys.readouterr().out
    assert '"plain PyTorch, float32", "8.0"' in printed
    assert 'What makes the difference' not in printed
    lines = (tmp_path / 'speed.tsv').read_text().splitlines()
    gpu = [
        implementation for row, (_, implementation, _) in benchmark.ROWS.items() if 'cuda' in row
    ]
    assert len(lines) == 3 + len(gpu)
    for implementation in gpu:
        assert f'"{implementation} (not yet measured)", "", "", "", ""' in page
