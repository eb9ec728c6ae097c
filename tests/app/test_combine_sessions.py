"""The images of a session are segmented together: ``--combine session``."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from app import Run, launch, save_tiny_model, write_description, write_image

from synthseg_bids.images.transform_file import read_transform

ANAT = 'sub-01/ses-a/anat'
SHIFT_MM = 3.0


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> tuple[Run, Run]:
    """Two runs over a session with an image, the same image moved, and a broken one."""
    folder = tmp_path_factory.mktemp('sessions')
    raw = folder / 'raw'
    write_description(raw, 'raw')
    first, moved = (raw / ANAT / f'sub-01_ses-a_{suffix}.nii.gz' for suffix in ('T1w', 'T2w'))
    write_image(first, (20, 22, 24), spacing=(4.0, 4.0, 4.0))
    image = nib.load(first)
    affine = image.affine.copy()
    affine[1, 3] += SHIFT_MM
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), moved)
    broken = raw / ANAT / 'sub-01_ses-a_FLAIR.nii.gz'
    broken.write_bytes(first.read_bytes()[:1000])
    write_image(raw / 'sub-02' / 'anat' / 'sub-02_T1w.nii.gz')
    model = save_tiny_model(folder / 'tiny.safetensors')
    options = raw, folder / 'out', model, '--combine', 'session'
    return launch(*options), launch(*options)


def test_each_image_has_a_label_map_of_all(runs):
    run, _ = runs
    assert run.code == 1, run.stderr  # of the broken image
    assert '1 sessions to segment together' in run.stderr
    for suffix, other in (('T1w', 'T2w'), ('T2w', 'T1w')):
        stem = run.out / ANAT / f'sub-01_ses-a_seg-synthsegsession_desc-{suffix}'
        image = nib.load(f'{stem}_dseg.nii.gz')
        single = nib.load(str(stem).replace('synthsegsession', 'synthseg') + '_dseg.nii.gz')
        assert image.shape == single.shape
        np.testing.assert_allclose(image.affine, single.affine)
        sidecar = json.loads((stem.parent / f'{stem.name}_dseg.json').read_text())
        uris = [f'bids:raw:{ANAT}/sub-01_ses-a_{name}.nii.gz' for name in (suffix, other)]
        assert sidecar['Sources'] == uris
        assert sidecar['Overlap'] > 0.99
        assert (stem.parent / f'{stem.name}_morph.tsv').exists()


def test_once_in_the_space_halfway(runs):
    folder = runs[0].out / ANAT
    stem = 'sub-01_ses-a_space-session_seg-synthsegsession_desc-combined_dseg'
    np.testing.assert_allclose(nib.load(folder / f'{stem}.nii.gz').header.get_zooms(), 1)
    sidecar = json.loads((folder / f'{stem}.json').read_text())
    assert sidecar['SpatialReference'].endswith(f'{stem}.nii.gz')
    moves = [
        read_transform(folder / f'sub-01_ses-a_from-{one}_to-{other}_mode-image_xfm.txt')
        for one, other in (('T1w', 'T2w'), ('T1w', 'session'), ('T2w', 'session'))
    ]
    # Where resampling the first image on the grid of the second looks up its intensities.
    np.testing.assert_allclose(moves[0][:3, 3], [0, -SHIFT_MM, 0], atol=0.05)
    np.testing.assert_allclose(moves[0], moves[1] @ np.linalg.inv(moves[2]), atol=1e-6)


def test_sessions_are_in_the_group_tables(runs):
    table = (runs[0].out / 'group_morph.tsv').read_text().splitlines()
    methods = [dict(zip(table[0].split('\t'), row.split('\t'), strict=True)) for row in table[1:]]
    assert sum(row['method'] == 'synthsegsession' for row in methods) == 2
    assert {row['participant_id'] for row in methods} == {'sub-01', 'sub-02'}
    assert (runs[0].out / 'seg-synthsegsession_dseg.tsv').exists()


def test_what_is_up_to_date_stays(runs):
    assert '0 sessions to segment together; 1 are up to date' in runs[1].stderr
