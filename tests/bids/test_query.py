from __future__ import annotations

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.bids.query import (
    DEFAULT_SUFFIXES,
    NotBidsError,
    QueryError,
    find_images,
    list_participants,
)


def relative(images) -> list[str]:
    return [image.relative for image in images]


def test_every_default_suffix_is_found(touch):
    root = touch(*(f'sub-1/anat/sub-1_{suffix}.nii.gz' for suffix in DEFAULT_SUFFIXES))
    images, skipped = find_images(root)
    assert {image.suffix for image in images} == {*DEFAULT_SUFFIXES}
    assert not skipped


def test_sessions_runs_and_extensions(touch):
    names = [
        'sub-1/anat/sub-1_run-1_T1w.nii',
        'sub-1/anat/sub-1_run-2_T1w.nii.gz',
        'sub-2/ses-a/anat/sub-2_ses-a_T2w.nii.gz',
        'sub-2/ses-b/anat/sub-2_ses-b_T2w.nii.gz',
    ]
    root = touch(*names, 'sub-1/func/sub-1_bold.nii.gz', 'derivatives/x/sub-3/anat/sub-3_T1w.nii')
    assert relative(find_images(root)[0]) == names
    assert relative(find_images(root, ['sub-2'])[0]) == names[2:]
    assert relative(find_images(root, ['2'], ['ses-b'])[0]) == names[3:]
    assert relative(find_images(root, sessions=['a'])[0]) == names[2:3]


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('sub-1/anat/sub-1_angio.nii.gz', 'suffix angio is not selected'),
        ('sub-1/anat/sub-1_part-phase_T2starw.nii.gz', 'part-phase is not a magnitude image'),
        ('sub-1/anat/scan.nii.gz', 'not a BIDS file name'),
        ('sub-1/anat/sub-2_T1w.nii.gz', 'its name and its folder disagree'),
        ('sub-1/ses-a/anat/sub-1_T1w.nii.gz', 'its name and its folder disagree'),
    ],
)
def test_others_are_skipped_with_a_reason(touch, name, reason):
    images, skipped = find_images(touch(name))
    assert not images
    assert skipped[0].relative == name
    assert skipped[0].reason.startswith(reason)
    assert not skipped[0].failed


def test_magnitude_part_is_segmented(touch):
    images, _ = find_images(touch('sub-1/anat/sub-1_echo-1_part-mag_T2starw.nii.gz'))
    assert images[0].entities == {'sub': '1', 'echo': '1', 'part': 'mag'}


def test_compressed_twin_wins(touch):
    root = touch('sub-1/anat/sub-1_T1w.nii', 'sub-1/anat/sub-1_T1w.nii.gz')
    images, skipped = find_images(root)
    assert relative(images) == ['sub-1/anat/sub-1_T1w.nii.gz']
    assert skipped[0].reason == 'the same image exists as .nii.gz'


def test_link_to_nowhere_was_not_downloaded(touch):
    root = touch('sub-1/anat/sub-1_T2w.nii.gz')
    (root / 'sub-1/anat/sub-1_T1w.nii.gz').symlink_to('../../.git/annex/objects/x')
    images, (missing,) = find_images(root)
    assert relative(images) == ['sub-1/anat/sub-1_T2w.nii.gz']
    assert missing.failed
    assert 'datalad get' in missing.reason


@pytest.mark.parametrize('extension', ['.nii', '.nii.gz'])
@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
def test_only_one_volume_is_segmented(touch, extension, kind):
    root = touch('sub-1/anat/sub-1_T1w' + extension, 'sub-1/anat/sub-1_T2w' + extension)
    nib.save(
        kind(np.zeros((4, 4, 4, 1), 'f4'), np.eye(4)), root / f'sub-1/anat/sub-1_T1w{extension}'
    )
    nib.save(
        kind(np.zeros((4, 4, 4, 3), 'f4'), np.eye(4)), root / f'sub-1/anat/sub-1_T2w{extension}'
    )
    images, skipped = find_images(root)
    assert [image.suffix for image in images] == ['T1w']
    assert '3 volumes' in skipped[0].reason


def test_big_endian_and_damaged_headers(touch):
    root = touch('sub-1/anat/sub-1_T1w.nii', 'sub-1/anat/sub-1_T2w.nii.gz')
    header = nib.Nifti1Header(endianness='>')
    header.set_data_shape((4, 4, 4, 2))
    (root / 'sub-1/anat/sub-1_T1w.nii').write_bytes(header.binaryblock)
    (root / 'sub-1/anat/sub-1_T2w.nii.gz').write_bytes(gzip.compress(b'x' * 400)[:30])
    images, skipped = find_images(root)
    # What is damaged is for the reader of the whole file to report.
    assert [image.suffix for image in images] == ['T2w']
    assert '2 volumes' in skipped[0].reason


def test_unknown_labels_are_answered_with_the_known_ones(touch):
    root = touch('sub-1/ses-a/anat/sub-1_ses-a_T1w.nii', 'sub-2/anat/sub-2_T1w.nii')
    with pytest.raises(QueryError, match=r'participant 7, x not found; there are: 1, 2'):
        find_images(root, ['sub-7', 'x', '1'])
    with pytest.raises(QueryError, match=r'session b not found; there are: a'):
        find_images(root, sessions=['b'])


def test_not_a_dataset(tmp_path: Path):
    with pytest.raises(NotBidsError, match='no sub-'):
        list_participants(tmp_path)
    with pytest.raises(NotBidsError, match='cannot be read'):
        list_participants(tmp_path / 'none')


def test_many_images_take_little_time(touch):
    names = [
        f'sub-{i:04d}/ses-{s}/anat/sub-{i:04d}_ses-{s}_T1w.nii' for i in range(500) for s in 'ab'
    ]
    root = touch(*names)
    start = time.process_time()
    images, _ = find_images(root)
    assert len(images) == 1000
    assert time.process_time() - start < 2
