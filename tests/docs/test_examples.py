"""The examples that the pages show; those of Nipype and Slurm are tested with these."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import write_image
from heads import write_heads

from synthseg_bids.models.registry import load_model

EXAMPLES = Path(__file__).parents[2] / 'examples'
PATHS = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'


def run(*command: object) -> str:
    # More threads than processors, where several tests run at once, take many times as long.
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PATH': PATHS, 'PYTHONWARNINGS': 'ignore'}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python_api(tmp_path, tiny_model):
    scans = [tmp_path / 'a.nii.gz', tmp_path / 'b.nii.gz', tmp_path / 'bad.nii.gz']
    for seed, scan in enumerate(scans[:2]):
        write_image(scan, seed=seed)
    scans[2].write_bytes(b'')
    out = tmp_path / 'out'
    said = run(sys.executable, EXAMPLES / 'python_api.py', out, *scans, '--model', tiny_model)
    assert 'a.nii.gz: quality control says fail' in said

    scan, labels = nib.load(scans[0]), nib.load(out / 'labels.nii.gz')
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-4)
    posteriors = nib.load(out / 'posteriors.nii.gz')
    assert posteriors.shape[:3] == scan.shape
    np.testing.assert_allclose(posteriors.get_fdata().sum(-1), 1, atol=1e-3)
    volumes = pd.read_csv(out / 'volumes.csv', index_col=0)['volume_mm3']
    table = pd.read_csv(out / 'all.csv', index_col='scan')
    assert [*table.index] == [path.name for path in scans]
    np.testing.assert_allclose(table.loc['a.nii.gz', volumes.index].astype(float), volumes)
    assert 'bad.nii.gz: the file is empty' in table.loc['bad.nii.gz', 'error']
    assert (pd.read_csv(out / 'qc.csv')['measure'] == 'verdict').any()


@pytest.mark.slow
def test_own_network(tmp_path):
    maps = tmp_path / 'maps'
    maps.mkdir()
    write_heads(maps)
    scan = tmp_path / 'scan.nii.gz'
    write_image(scan, shape=(24, 20, 14), spacing=(1, 1, 2))
    out = tmp_path / 'out'
    small = ['--size', 16, 16, 16, '--features', 2, '--levels', 2, '--steps', 2, '--threads', 1]
    run(EXAMPLES / 'own_network.sh', maps, scan, out, 'map-1', 'map-2', *small)

    assert len([*(out / 'samples').glob('*_steps.png')]) == 4
    _, card = load_model(out / 'own.safetensors')
    assert card.training['label_maps'] == ['map-0_dseg.nii.gz']
    assert card.validation['calibration']['fitted_on'] == ['map-1_dseg.nii.gz']
    assert nib.load(out / 'labels.nii.gz').shape == (24, 20, 14)
    assert (out / 'volumes.csv').read_text().startswith('index,name,volume_mm3')
