"""What runs on a machine with a GPU is rehearsed on the CPU, with tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import gpu.__main__ as program
import numpy as np
import pytest
import torch
from gpu.files import load_maps, load_scan, save_maps, save_scan
from gpu.measure import Traffic
from gpu.page import HEADING, section, with_gpu_section
from gpu.training import cut
from heads import write_heads

from synthseg_bids.models.registry import load_model
from synthseg_bids.synth.label_maps import find_label_maps, load_label_map

ROOT = Path(program.ROOT)
#: What a GPU might have given.
FOUND = {
    'device': 'cuda',
    'tiny': False,
    'parts': {
        'tests': {'passed': 15},
        'agreement': {
            'dice': 0.9987,
            'brain_voxels_that_differ': 0.0021,
            'cpu_s': 8,
            'cuda_s': 0.4,
        },
        'generator': {
            'size': [160, 192, 160],
            'batches': [
                {'batch': 1, 'scans_per_s': 90.5, 'roofline_share': 0.11, 'host_share': 0.9}
            ],
        },
        'network': {
            'gpu': 'a GPU',
            'torch': '2.11',
            'copying_gb_s': 4000.0,
            'matrices_tflop_s': 700.0,
            'paper': {
                'shape': [192, 224, 192],
                'tflop': 4.0,
                'engine': {'s': 0.05, 'tflop_s': 70.0},
                'plain': {'error': 'out of memory'},
            },
        },
        'scans': {'error': 'exit code 1: no'},
        'training': {'scans_per_s': 33.3, 'batch': 24, 'steps': 300, 'peak_gb': 120.0},
    },
}


@pytest.fixture
def files(tmp_path):
    """What is brought to the other machine: two label maps, a scan."""
    folder = tmp_path / 'files'
    folder.mkdir()
    (tmp_path / 'maps').mkdir()
    maps = [load_label_map(path) for path in find_label_maps(write_heads(tmp_path / 'maps'))]
    save_maps(folder / 'label_maps.npz', maps)
    scan = np.random.default_rng(0).integers(0, 200, (24, 26, 28)).astype(np.float32)
    save_scan(folder / 'scan.npz', scan, np.diag([-1.0, 1, 1, 1]))
    return folder


def launch(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT / 'benchmarks'), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'gpu', '--device', 'cpu', '--tiny', *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_rehearsal(tmp_path, files):
    out = tmp_path / 'run'
    done = launch('--files', files, '--out', out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == '6 parts done, 0 failed: '
    parts = json.loads((out / 'gpu.json').read_text())['parts']
    assert list(parts) == list(program.PARTS)
    assert parts['agreement']['ran_on'] == 'cpu'
    assert [row['batch'] for row in parts['generator']['batches']] == [1, 2]
    assert parts['network']['paper']['engine']['s'] > 0
    assert [row['workers'] for row in parts['scans']['rows']] == [2]
    assert parts['training']['scans'] == 2 * parts['training']['steps'] > 0
    # The trained network is joined from its pieces, and complete.
    pieces = sorted(out.glob('model.safetensors.*'))
    assert len(pieces) == parts['training']['pieces'] > 0
    (out / 'model.safetensors').write_bytes(b''.join(piece.read_bytes() for piece in pieces))
    assert load_model(out / 'model.safetensors')[1].training['steps'] > 0


@pytest.mark.slow
def test_a_part_that_fails_does_not_stop_the_others(tmp_path, files):
    (files / 'label_maps.npz').write_text('damaged')
    out = tmp_path / 'run'
    done = launch('--files', files, '--out', out, '--parts', 'generator', 'agreement')
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == '1 parts done, 1 failed: generator'
    parts = json.loads((out / 'gpu.json').read_text())['parts']
    assert parts['generator']['error'].startswith('exit code 1: ')
    assert 'error' not in parts['agreement']


def test_a_part_that_takes_too_long_is_stopped(tmp_path, files):
    args = Namespace(out=tmp_path, files=files, device='cpu', tiny=True, start_from=None)
    environment = program._environment(files, tmp_path)
    result = program._run_part('agreement', args, environment, 0.05)
    assert result['error'] == 'stopped after 0 s'


def test_files_are_read_as_they_were(files, tmp_path):
    maps = [load_label_map(path) for path in find_label_maps(tmp_path / 'maps')]
    for one, again in zip(maps, load_maps(files), strict=True):
        assert torch.equal(one.indices, again.indices)
        np.testing.assert_array_equal(one.affine, again.affine)
        names = ('name', 'spacing_mm', 'centre', 'age_group', 'merged')
        assert [getattr(one, name) for name in names] == [getattr(again, name) for name in names]
    data, affine = load_scan(files)
    assert data.shape == (24, 26, 28)
    assert affine[0, 0] == -1


def test_without_files_there_are_ellipsoids(tmp_path):
    (head,) = load_maps(tmp_path, tiny=True)
    assert head.indices.shape == (48, 48, 48)
    assert load_scan(tmp_path, tiny=True)[0].shape == (32, 40, 32)


def test_bytes_are_counted_but_for_views():
    one = torch.zeros(10, 10)
    with Traffic(one.device) as traffic:
        (one + 1)[2:].T.reshape(-1).mul_(2)
    # The sum reads and writes 400 bytes; the copy 320; the product reads its tensor and writes it.
    assert traffic.operations == 3
    assert traffic.bytes == 2 * 400 + 2 * 320 + 2 * 320


def test_pieces_are_joined_by_cat(tmp_path, monkeypatch):
    monkeypatch.setattr('gpu.training.PIECE', 10)
    path = tmp_path / 'model.safetensors'
    path.write_bytes(bytes(range(25)))
    assert cut(path) == 3
    joined = b''.join(path.with_name(f'{path.name}.{i}').read_bytes() for i in range(3))
    assert joined == bytes(range(25))
    assert not path.exists()


def test_page_has_what_was_measured(tmp_path):
    (tmp_path / 'gpu.json').write_text(json.dumps(FOUND))
    page = with_gpu_section(f'Before\n\n{HEADING}replaced', tmp_path)
    assert page.startswith('Before\n')
    assert 'replaced' not in page
    assert '"1", "90.5", "11%", "90%"' in page
    assert '"engine", "0.05", "70", "10%"' in page
    assert '"plain", "", "", "out of memory"' in page
    assert ':Labels of GPU and CPU: Dice 0.9987, 0.21% of the brain differ; 0.4 s and 8 s' in page
    assert ':Failed: scans: exit code 1: no' in page
    assert 'Not measured' not in page


def test_a_rehearsal_is_no_measurement():
    assert 'Not measured yet' in section({**FOUND, 'device': 'cpu'})
    page = (ROOT / 'docs' / 'speed.rst').read_text()
    assert page == with_gpu_section(page), 'run docs/build.py speed'
