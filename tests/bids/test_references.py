from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.names import parse_name
from synthseg_bids.bids.plan import plan_outputs
from synthseg_bids.bids.references import find_reference


def image(name: str) -> ImageRecord:
    entities, suffix, _ = parse_name(name)
    folder = f'sub-{entities["sub"]}' + (f'/ses-{entities["ses"]}' if 'ses' in entities else '')
    relative = f'{folder}/anat/{name}'
    return ImageRecord(Path('/raw') / relative, relative, entities, suffix)


@pytest.mark.parametrize(
    ('name', 'reference'),
    [
        ('sub-1_T1w.nii.gz', 'sub-1/anat/sub-1_desc-aparcaseg_dseg.nii.gz'),
        ('sub-1_T2w.nii.gz', 'sub-1/anat/sub-1_desc-aparcaseg_dseg.nii.gz'),
        ('sub-1_T2w.nii.gz', 'sub-1/anat/sub-1_seg-synthseg_desc-T1w_dseg.nii.gz'),
        ('sub-1_T1w.nii.gz', 'sub-1/anat/sub-1_dseg.mgz'),
        ('sub-1_echo-2_part-mag_T2starw.nii', 'sub-1/anat/sub-1_desc-aseg_dseg.nii'),
        (
            'sub-1_ses-b_acq-hi_run-1_T1w.nii',
            'sub-1/ses-b/anat/sub-1_ses-b_acq-hi_run-01_dseg.nii',
        ),
    ],
)
def test_same_head(touch, name, reference):
    root = touch(reference)
    assert find_reference(image(name), {'ref': root}) == {'ref': root / reference}


@pytest.mark.parametrize(
    ('name', 'reference'),
    [
        ('sub-1_T1w.nii.gz', 'sub-2/anat/sub-2_dseg.nii.gz'),
        ('sub-1_run-2_T1w.nii.gz', 'sub-1/anat/sub-1_run-1_dseg.nii.gz'),
        ('sub-1_acq-a_T1w.nii.gz', 'sub-1/anat/sub-1_dseg.nii.gz'),
        ('sub-1_ses-a_T1w.nii.gz', 'sub-1/ses-b/anat/sub-1_ses-b_dseg.nii.gz'),
        ('sub-1_T1w.nii.gz', 'sub-1/anat/sub-1_space-MNI152NLin2009cAsym_dseg.nii.gz'),
        ('sub-1_T1w.nii.gz', 'sub-1/anat/sub-1_label-hippocampus_dseg.nii.gz'),
        ('sub-1_T1w.nii.gz', 'sub-1/anat/sub-1_probseg.nii.gz'),
        ('sub-1_T1w.nii.gz', 'sub-1/anat/sub-1_dseg.tsv'),
    ],
)
def test_another_head_or_space(touch, name, reference):
    assert find_reference(image(name), {'ref': touch(reference)}) == {}


def test_a_mask_of_lesions_comes_last(touch):
    root = touch(
        'sub-1/anat/sub-1_desc-lesions_dseg.nii.gz',
        'sub-1/anat/sub-1_desc-samsegT1w_dseg.nii.gz',
    )
    found = find_reference(image('sub-1_FLAIR.nii.gz'), {'ref': root})
    assert found['ref'].name == 'sub-1_desc-samsegT1w_dseg.nii.gz'


def test_own_contrast_first_then_the_finest_parcellation(touch):
    root = touch(
        'sub-1/anat/sub-1_desc-T1w_dseg.nii.gz',
        'sub-1/anat/sub-1_desc-aseg_dseg.nii.gz',
        'sub-1/anat/sub-1_desc-aparcaseg_dseg.nii.gz',
    )
    found = [
        find_reference(image(f'sub-1_{s}.nii'), {'r': root})['r'].name for s in ('T1w', 'T2w')
    ]
    assert found == ['sub-1_desc-T1w_dseg.nii.gz', 'sub-1_desc-aparcaseg_dseg.nii.gz']


@pytest.mark.parametrize(
    ('name', 'files', 'expected'),
    [
        ('sub-1_T1w.nii', ('sub-1/mri/aseg.mgz',), 'sub-1/mri/aseg.mgz'),
        (
            'sub-1_acq-hi_run-2_T2w.nii',
            ('sub-1/mri/aseg.mgz', 'sub-1/mri/aparc+aseg.mgz', 'sub-2/mri/aseg.mgz'),
            'sub-1/mri/aparc+aseg.mgz',
        ),
        (
            'sub-1_ses-a_T1w.nii',
            ('sub-1_ses-a/mri/aseg.mgz', 'sub-1_ses-b/mri/aseg.mgz', 'sub-1/mri/aseg.mgz'),
            'sub-1_ses-a/mri/aseg.mgz',
        ),
        ('sub-1_ses-a_T1w.nii', ('sub-1/mri/aseg.mgz',), 'sub-1/mri/aseg.mgz'),
        ('sub-1_ses-a_T1w.nii', ('sub-1_ses-b/mri/aseg.mgz',), None),
        ('sub-1_T1w.nii', ('sub-1_ses-b/mri/aseg.mgz', 'sub-1/mri/norm.mgz'), None),
    ],
)
def test_subjects_of_freesurfer(touch, name, files, expected):
    root = touch(*files)
    found = {'fs': root / expected} if expected else {}
    assert find_reference(image(name), {'fs': root}) == found


def test_an_average_of_several_sessions_lies_elsewhere(touch, tmp_path):
    root = touch('sub-1/mri/aseg.mgz')
    for session in ('a', 'b'):
        (tmp_path / f'raw/sub-1/ses-{session}/anat').mkdir(parents=True)
    scan = image('sub-1_ses-a_T1w.nii')
    scan = replace(scan, path=tmp_path / 'raw' / scan.relative)
    assert find_reference(scan, {'fs': root}) == {}
    loose = replace(scan, path=Path('sub-1_ses-a_desc-T1w_dseg.nii'))
    assert find_reference(loose, {'fs': root}) == {}
    shutil.rmtree(tmp_path / 'raw/sub-1/ses-b')
    assert find_reference(scan, {'fs': root}) == {'fs': root / 'sub-1/mri/aseg.mgz'}


def test_records_name_references_and_refuse_clashes(touch):
    root = touch('sub-1/anat/sub-1_dseg.nii.gz')
    images = [image('sub-1_T1w.nii'), image('sub-1_T1w.nii.gz')]
    (record,), (clash,) = plan_outputs(images, {'fs': root})
    assert record.reference_uris == {'fs': 'bids:fs:sub-1/anat/sub-1_dseg.nii.gz'}
    assert record.source == 'bids:raw:sub-1/anat/sub-1_T1w.nii'
    assert record.kinds() == ['dseg', 'morph', 'qc', 'dice']
    assert record.kinds('1mm', 'native') == ['dseg1mm', 'morph', 'qc', 'probseg', 'dice']
    assert record.kinds('both', '1mm') == ['dseg', 'dseg1mm', 'morph', 'qc', 'probseg1mm', 'dice']
    assert clash.status == 'failed'
    assert 'sub-1_T1w.nii' in clash.reason
