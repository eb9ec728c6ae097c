"""Predicted memory against memory that is used."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from app import launch, write_description, write_image

from synthseg_bids.app.config import read_toml
from synthseg_bids.external.methods import METHODS, OURS
from synthseg_bids.files import read_table
from synthseg_bids.hardware.device import fast_dtype
from synthseg_bids.hardware.processes import TUNABLES, VARIABLE
from synthseg_bids.inference.memory_estimate import HEAD, PROCESS_BYTES, describe_model, worker_gb
from synthseg_bids.models.card import ModelCard, save_model
from synthseg_bids.models.registry import model_path
from synthseg_bids.models.unet import NetworkConfig, UNet3D

PAPER = ModelCard('paper', NetworkConfig(), spacing_mm=1.0)


@pytest.fixture
def bfloat16(monkeypatch):
    """Plan as where that is fast: in float32 the pass itself takes more than all that follows."""
    monkeypatch.setenv('SYNTHSEG_BIDS_DTYPE', 'bfloat16')


@pytest.mark.slow
def test_a_run_takes_what_was_planned(tmp_path):
    """Large enough that the scan counts, not only the process."""
    torch.manual_seed(0)
    config = NetworkConfig(features=8, levels=3, norm='instance', norm_placement='conv')
    card = ModelCard(name='wide', network=config, spacing_mm=1.0)
    save_model(tmp_path / 'wide.safetensors', UNet3D(config), card)
    write_description(tmp_path / 'raw', 'Large')
    name = 'sub-1/anat/sub-1_T1w.nii'
    write_image(tmp_path / 'raw' / name, (120, 110, 100), spacing=(1.0, 1.0, 1.0))
    run = launch(tmp_path / 'raw', tmp_path / 'out', tmp_path / 'wide.safetensors',
                 '--resource-monitor')  # fmt: skip
    assert run.code == 0, run.stderr
    (log_dir,) = (path.parent for path in run.out.glob('logs/*/config.toml'))
    planned = read_toml(log_dir / 'config.toml')['resources']['mem_gb']
    usage = {row['node'].rpartition('.')[2]: row for row in read_table(log_dir / 'resources.tsv')}
    used = float(usage['segment']['peak_memory_mb']) / 1024
    assert used > 1.5 * PROCESS_BYTES / 2**30
    assert planned / 3 < used < planned


def test_what_is_asked_for_counts(bfloat16):
    # So many features that the forward pass takes most.
    wide = dataclasses.replace(PAPER, network=NetworkConfig(features=64))
    usual = worker_gb(wide)
    assert worker_gb(wide, low_memory=True) < worker_gb(wide, flip=False) < usual
    usual = worker_gb(PAPER)
    assert usual < worker_gb(PAPER, posteriors='native')
    assert usual < worker_gb(PAPER, tissues=['masks', 'five_tissue'])
    closer = dataclasses.replace(PAPER, crop_mm=(160.0, 192.0, 160.0))
    assert worker_gb(closer) < worker_gb(closer, autocrop=False) == usual


def test_the_largest_scan_counts():
    slices = (400, 400, 40), (0.5, 0.5, 4.0)
    assert worker_gb(PAPER, [slices]) < worker_gb(PAPER, [HEAD])
    assert worker_gb(PAPER, [slices, HEAD]) == worker_gb(PAPER, [HEAD])
    assert worker_gb(PAPER, []) == PROCESS_BYTES / 2**30


def test_published_weights_need_no_card(tmp_path):
    path = tmp_path / 'synthseg_2.0.h5'
    path.touch()
    found = describe_model(path)
    assert (found.name, found.spacing_mm, found.crop_mm) == ('synthseg_2.0', 1.0, None)
    shipped = describe_model('default')
    assert Path(model_path('default')).stem == shipped.name


@pytest.mark.parametrize('posteriors', ['native', '1mm'])
def test_posteriors_are_counted_on_their_grid(posteriors, bfloat16):
    fine = (512, 512, 512), (0.5, 0.5, 0.5)
    more = worker_gb(PAPER, [fine], posteriors=posteriors) - worker_gb(PAPER, [fine])
    assert more == pytest.approx({'native': 8, '1mm': 1}[posteriors] * 33 * 2 / 64, rel=0.5)


def test_nodes_plan_with_what_the_shipped_model_takes():
    planned = METHODS[OURS].mem_gb
    assert planned / 2 < worker_gb(describe_model('default')) < planned


_SEGMENT_A_HEAD = """
import resource, sys
import numpy as np, torch
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.models.card import ModelCard

engine = Engine(UNet3D(), torch.device('cpu'), getattr(torch, sys.argv[1]))
segmenter = Segmenter.from_engine(engine, ModelCard('paper', NetworkConfig(), 1.0))
head = np.random.default_rng(0).random((192, 224, 192), dtype=np.float32)
found = segmenter.segment(head, np.eye(4))
assert found.report.flip_dice
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another C library')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_papers_network_takes_less_than_four_gigabytes(dtype):
    """As a command runs it, for a whole head with 33 labels and the mirrored pass; measured."""
    if dtype == 'bfloat16' and fast_dtype(torch.device('cpu')) != torch.bfloat16:
        pytest.skip('bfloat16 is emulated here, which takes minutes')
    environment = os.environ | {VARIABLE: ':'.join(f'{k}={v}' for k, v in TUNABLES.items())}
    command = [sys.executable, '-c', _SEGMENT_A_HEAD, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert 1e9 < int(done.stdout) < 4e9
