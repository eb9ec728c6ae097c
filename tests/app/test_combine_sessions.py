"""The images of a session are segmented together: ``--combine session``."""

from __future__ import annotations

import pytest
from app import Run, launch, save_tiny_model, write_description, write_image

ANAT = 'sub-01/ses-a/anat'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Run:
    """A run over a session with two images and a broken one, by a network of random weights."""
    folder = tmp_path_factory.mktemp('sessions')
    raw = folder / 'raw'
    write_description(raw, 'raw')
    for suffix in ('T1w', 'T2w', 'FLAIR'):
        write_image(raw / ANAT / f'sub-01_ses-a_{suffix}.nii.gz')
    broken = raw / ANAT / 'sub-01_ses-a_FLAIR.nii.gz'
    broken.write_bytes(broken.read_bytes()[:500])
    model = save_tiny_model(folder / 'tiny.safetensors')
    return launch(raw, folder / 'out', model, '--combine', 'session')


@pytest.mark.slow
def test_a_session_fails_alone(run):
    # Such a network finds no structures by which images could be registered.
    assert run.code == 1
    assert '1 sessions to segment together; 0 are up to date' in run.stderr
    assert f'{ANAT}: the scans cannot be registered: only 0 structures in common' in run.stderr
    assert '2 done, 0 skipped, 1 failed' in run.stdout
    for suffix in ('T1w', 'T2w'):
        assert (run.out / ANAT / f'sub-01_ses-a_seg-synthseg_desc-{suffix}_dseg.nii.gz').exists()
    assert not [*(run.out / ANAT).glob('*_seg-synthsegsession_*_dseg.*')]
