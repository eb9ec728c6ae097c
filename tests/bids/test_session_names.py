"""Images of a session are gathered, and what is made of them together is named."""

from __future__ import annotations

from pathlib import Path

from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.names import parse_name
from synthseg_bids.bids.sessions import (
    image_statuses,
    list_sessions,
    session_stem,
    space_labels,
    transform_names,
)


def image(relative: str, status: str = 'done') -> ImageRecord:
    parsed = parse_name(relative.rpartition('/')[2])
    assert parsed is not None
    return ImageRecord(Path('/raw', relative), relative, *parsed[:2], status=status)


def test_sessions_have_two_images_that_were_segmented():
    a, b = 'sub-1/ses-a/anat/sub-1_ses-a', 'sub-1/ses-b/anat/sub-1_ses-b'
    images = [image(f'{a}_T2w.nii'), image(f'{b}_T1w.nii'), image(f'{a}_T1w.nii', 'current')]
    images += [image(f'{b}_T2w.nii', 'failed'), image('sub-2/anat/sub-2_T1w.nii')]
    (session,) = list_sessions(images)
    assert [one.suffix for one in session.images] == ['T1w', 'T2w']
    assert session.relative == 'sub-1/ses-a/anat'
    assert session.status == 'pending'
    assert session.name == 'sub-1_ses-a_session'
    stem = 'sub-1_ses-a_space-session_seg-synthsegsession_desc-combined'
    assert session.stem == f'sub-1/ses-a/anat/{stem}'


def test_transforms_are_named_after_contrasts():
    images = [image(f'sub-1/anat/sub-1_{name}.nii') for name in ('T1w', 'T2w')]
    halfway, pairs = transform_names(images)
    assert halfway[0] == 'sub-1/anat/sub-1_from-T1w_to-session_mode-image_xfm.txt'
    assert pairs == ['sub-1/anat/sub-1_from-T1w_to-T2w_mode-image_xfm.txt']


def test_images_of_one_contrast_have_different_spaces():
    names = ('acq-a_run-1_T1w', 'run-2_T1w', 'T2w')
    images = [image(f'sub-1/anat/sub-1_{name}.nii') for name in names]
    assert space_labels(images) == ['T1wacqarun1', 'T1wrun2', 'T2w']
    stems = {session_stem(one) for one in images}
    assert 'sub-1/anat/sub-1_run-2_seg-synthsegsession_desc-T1w' in stems
    assert len(stems) == 3


def test_an_image_left_out_of_its_session_is_told(tmp_path):
    images = [image(f'sub-1/anat/sub-1_{suffix}.nii') for suffix in ('FLAIR', 'T1w', 'T2w')]
    (session,) = list_sessions(images)
    session.settle('done', 'FLAIR shows another head')
    for one in images[1:]:
        sidecar = tmp_path / f'{session_stem(one)}_dseg.json'
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        sidecar.write_text('{}')
    found = image_statuses(tmp_path, [session])
    assert [one.status for one in found] == ['skipped', 'done', 'done']
    assert {one.reason for one in found} == {'FLAIR shows another head'}
    assert {one.status for one in images} == {'done'}
