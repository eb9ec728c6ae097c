"""What the tests of Docker and Apptainer have in common."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np

from synthseg_bids.bids.validate import find_validator
from synthseg_bids.files import read_table

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get('SYNTHSEG_BIDS_TEST_DATA', REPOSITORY.parent / 'shared/data/bids'))
BASE_IMAGE = 'docker.io/library/python:3.11-slim-bookworm'
#: How this machine's pip and certificates get into builds: options of buildah.
BUILD_MOUNTS = shlex.split(os.environ.get('OCI_BUILD_MOUNTS', ''))
PARTICIPANT, SUFFIX, REFERENCE = 'nv', 'T1w', 'reference'
STEM = f'sub-{PARTICIPANT}/anat/sub-{PARTICIPANT}_seg-synthseg_desc-{SUFFIX}'


def run(*command: object, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run a command that must work; its last lines are shown if it does not."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, **kwargs)
    tail = '\n'.join((done.stdout + done.stderr).splitlines()[-30:])
    assert done.returncode == 0, f'{shlex.join(words)}: exit code {done.returncode}\n{tail}'
    return done


def app_options(data: object, out: object) -> list[str]:
    """Return the arguments of a run on one scan, wherever the folders are mounted."""
    words = [data, out, 'participant', '--participant-label', PARTICIPANT, '--suffix', SUFFIX]
    return [*map(str, words), '-d', f'{REFERENCE}={data}/derivatives/reference']


def check_outputs(out: Path, data: Path, owner: int) -> dict[str, object]:
    """Check what a run on one scan has left; return its dataset_description.json."""
    rows = read_table(out / 'group_status.tsv')
    assert [row['status'] for row in rows] == ['done'], rows
    source = nib.load(data / f'sub-{PARTICIPANT}/anat/sub-{PARTICIPANT}_{SUFFIX}.nii.gz')
    labels = nib.load(out / f'{STEM}_dseg.nii.gz')
    assert labels.shape == source.shape
    assert np.array_equal(labels.affine, source.affine)
    # The mean over twelve structures: what is broken stays far below what the model reaches.
    assert float(read_table(out / f'{STEM}_dice.tsv')[-1]['dice']) > 0.6
    for kind in ('morph', 'qc'):
        assert len(read_table(out / f'{STEM}_{kind}.tsv')) > 5
    assert '<html' in (out / f'sub-{PARTICIPANT}.html').read_text()
    assert {path.stat().st_uid for path in out.rglob('*')} == {owner}
    run(find_validator(), out)
    return json.loads((out / 'dataset_description.json').read_text())
