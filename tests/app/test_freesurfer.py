"""References in a SUBJECTS_DIR, and outputs that FreeSurfer's tools read."""

from __future__ import annotations

import json
import subprocess

import nibabel as nib
import numpy as np
import pytest
from app import Run, run_here, write_description, write_image

from synthseg_bids.external.fs_stats import read_volumes
from synthseg_bids.files import read_table

STEM = 'sub-01/anat/sub-01_seg-synthseg_desc-T1w'


@pytest.fixture(scope='module')
def run(tmp_path_factory, tiny_model) -> Run:
    """An image, and what FreeSurfer would have made of it on a grid of its own."""
    folder = tmp_path_factory.mktemp('freesurfer')
    write_description(folder / 'raw', 'One')
    write_image(folder / 'raw/sub-01/anat/sub-01_T1w.nii.gz')
    labels = np.zeros((18, 18, 20), np.int32)
    labels[:9], labels[9:], labels[:4] = 1017, 2, 41
    # As conformed: its axes run to the left, down and to the front.
    affine = np.array([[-4.0, 0, 0, 0], [0, 0, 4.0, 0], [0, -4.0, 0, 95], [0, 0, 0, 1]])
    mri = folder / 'subjects/sub-01/mri'
    mri.mkdir(parents=True)
    nib.save(nib.MGHImage(labels, affine), mri / 'aparc+aseg.mgz')
    subjects = f'fs={folder / "subjects"}'
    return run_here(folder / 'raw', folder / 'out', tiny_model, '-d', subjects, '--aseg-stats')


def test_a_reconstruction_is_the_reference(run):
    assert run.code == 0, run.stderr
    rows = {row['name']: row for row in read_table(run.out / f'{STEM}_dice.tsv')}
    cortex = rows['Left-Cerebral-Cortex']
    assert (cortex['reference'], cortex['reference_volume_mm3']) == ('fs', '115200.000')
    sources = json.loads((run.out / f'{STEM}_dice.json').read_text())['Sources']
    assert 'bids:fs:sub-01/mri/aparc+aseg.mgz' in sources


def test_volumes_and_intensities(run):
    table = read_table(run.out / f'{STEM}_morph.tsv')
    volumes = read_volumes(run.out / f'{STEM}_aseg.stats')
    expected = {int(r['index']): float(r['volume_mm3']) for r in table if r['index'] != 'n/a'}
    assert volumes == pytest.approx(expected, abs=0.05)
    text = (run.out / f'{STEM}_aseg.stats').read_text()
    total = next(line for line in text.splitlines() if ', eTIV,' in line).split(',')[3]
    assert float(total) == pytest.approx(float(table[-1]['volume_mm3']), abs=1e-3)


def test_the_tree_is_valid(run, validator):
    answer = subprocess.run([validator, str(run.out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    assert (run.out / 'seg-synthseg_dseg.ctbl').exists()
