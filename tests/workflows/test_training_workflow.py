"""Label maps of brains to a trained model to a segmented scan, all of it for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import write_heads
from matplotlib.image import imread

from synthseg_bids.files import read_table, sha256
from synthseg_bids.labels import CSF
from synthseg_bids.models.registry import load_model

EXAMPLE = Path(__file__).parents[2] / 'examples' / 'training_workflow.py'
AFFINE = np.array([[0, -1.5, 0, 9], [-1.0, 0, 0, 12], [0, 0, 2, -20], [0, 0, 0, 1]])


@pytest.fixture(scope='module')
def scan(tmp_path_factory) -> Path:
    """A scan of noise whose axes and voxels are unlike those of the label maps."""
    path = tmp_path_factory.mktemp('scan') / 'scan.nii.gz'
    data = np.random.default_rng(0).random((24, 20, 14)).astype('f4')
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


@pytest.fixture(scope='module')
def maps(tmp_path_factory) -> Path:
    """Three small heads of boxes."""
    return write_heads(tmp_path_factory.mktemp('maps'))


def run(maps: Path, scan: Path, out: Path, *options: str) -> str:
    command = [sys.executable, '-W', 'ignore', str(EXAMPLE), str(maps), str(scan), str(out)]
    command += ['--fit-on', 'map-1', '--check-on', 'map-2', '--size', '16', '16', '16']
    command += ['--features', '2', '--levels', '2', '--steps', '4', '--epoch-steps', '2']
    command += ['--samples', '2', '--scans', '1', '--plugin', 'Linear', *options]
    # More threads than processors, where several tests run at once, take many times as long.
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def computed(output: str) -> set[str]:
    """Return the nodes that Nipype says it executed."""
    return {part.partition('"')[0] for part in output.split('Executing "')[1:]}


@pytest.mark.slow
def test_label_maps_to_a_segmented_scan(tmp_path, maps, scan):
    out = tmp_path / 'out'
    first = run(maps, scan, out)

    model = out / 'calibrated.safetensors'
    network, card = load_model(model)
    assert network.config.features == 2
    assert card.training['steps'] == 4
    assert card.training['label_maps'] == ['map-0_dseg.nii.gz']
    assert card.validation['calibration']['fitted_on'] == ['map-1_dseg.nii.gz']
    assert card.validation['calibration']['checked_on'] == ['map-2_dseg.nii.gz']

    labels = nib.load(out / 'dseg.nii.gz')
    assert labels.shape == (24, 20, 14)
    np.testing.assert_allclose(labels.affine, AFFINE, atol=1e-4)
    assert {*np.unique(labels.dataobj)} <= {*card.labels}
    volumes = {row['index'] for row in read_table(out / 'morph.tsv')}
    assert volumes >= {str(label) for label in card.labels if label not in (0, 77)}
    for picture in ('samples', 'learning_curve'):
        assert imread(out / f'{picture}.png').std() > 0.05

    prepared = next((out / 'work').rglob('mapflow/_prepare0/map-0_dseg.nii.gz'))
    assert CSF in np.unique(nib.load(prepared).dataobj)
    sidecar = json.loads(prepared.with_name('map-0_dseg.json').read_text())
    assert sidecar['AgeGroup'] == 'adult'
    assert sidecar['MergedLabels']

    # The same again computes nothing; another training all that comes after it.
    assert computed(run(maps, scan, out)) == {'sink'}
    before = sha256(model)
    again = computed(run(maps, scan, out, '--steps', '6'))
    assert sha256(model) != before
    assert {'train', 'calibrate', 'segment'} <= again
    assert again < computed(first)
