"""The images of a session are segmented together: ``--combine session``."""

from __future__ import annotations

import pytest
from app import Run, options, run_here, save_tiny_model, write_description, write_image

from synthseg_bids.app.main import main
from synthseg_bids.files import read_table

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
    return run_here(raw, folder / 'out', model, '--combine', 'session')


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
    rows = read_table(run.out / 'group_status.tsv')
    together = [row for row in rows if row['method'] == 'synthsegsession']
    assert [row['source'].rpartition('_')[2] for row in together] == ['T1w.nii.gz', 'T2w.nii.gz']
    for row in together:
        assert row['status'] == 'failed'
        assert row['session_id'] == 'ses-a'
        assert 'cannot be registered' in row['reason']


def test_a_dry_run_names_what_is_segmented_together(tmp_path, capsys):
    raw = tmp_path / 'raw'
    write_description(raw, 'raw')
    for session, suffix in (('ses-a', 'T1w'), ('ses-a', 'T2w'), ('ses-b', 'T1w')):
        write_image(raw / f'sub-01/{session}/anat/sub-01_{session}_{suffix}.nii.gz')
    model = save_tiny_model(tmp_path / 'tiny.safetensors')
    both = ('--combine', 'session', '--longitudinal', '--dry-run')
    assert main(options(raw, tmp_path / 'out', model, *both)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('together')]
    images = 'sub-01_ses-a_T1w.nii.gz sub-01_ses-a_T2w.nii.gz'
    assert lines == [
        f'together (--combine session)  {ANAT}  {images}',
        'together (--longitudinal)  sub-01  ses-a ses-b',
    ]
