from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.bids.errors import NotBidsError, QueryError
from synthseg_bids.bids.filters import read_filters
from synthseg_bids.bids.plan import plan_outputs
from synthseg_bids.bids.query import (
    DEFAULT_SUFFIXES,
    find_images,
    keep_first_echoes,
    list_participants,
    select_participants,
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
        ('sub-1/anat/scan.nii.gz', 'not a BIDS file name; rename it'),
        ('sub-1/anat/sub-2_T1w.nii.gz', 'its name and its folder disagree'),
        ('sub-1/ses-a/anat/sub-1_T1w.nii.gz', 'its name and its folder disagree'),
    ],
)
def test_others_are_skipped_with_a_reason(touch, name, reason):
    images, skipped = find_images(touch(name))
    assert not images
    assert skipped[0].relative == name
    assert skipped[0].reason.startswith(reason)
    assert skipped[0].status == 'skipped'


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
    assert missing.status == 'failed'
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


def test_excluded_participants(touch):
    root = touch('sub-1/anat/sub-1_T1w.nii', 'sub-2/anat/sub-2_T1w.nii')
    assert select_participants(root, excluded=['sub-1']) == ['2']
    assert select_participants(root, ['1', 'sub-2'], ['2']) == ['1']
    with pytest.raises(QueryError, match='participant 3 not found; there are: 1, 2'):
        select_participants(root, excluded=['3'])


@pytest.mark.parametrize(
    ('query', 'names'),
    [
        ({'acquisition': 'hi'}, ['acq-hi_run-1', 'acq-hi_run-2']),
        ({'acq': None}, ['', 'run-01']),
        ({'acquisition': '*', 'run': 2}, ['acq-hi_run-2']),
        ({'run': [1, None], 'datatype': 'anat', 'extension': '.nii'}, ['acq-hi_run-1', '',
                                                                       'run-01']),
        ({'session': 'x'}, []),
    ],
)  # fmt: skip
def test_filter_file(touch, tmp_path, query, names):
    parts = ('acq-hi_run-1', 'acq-hi_run-2', '', 'run-01')
    files = {p: f'sub-1/anat/{"_".join(filter(None, ["sub-1", p, "T1w"]))}.nii' for p in parts}
    root = touch(*files.values(), 'sub-1/anat/sub-1_T2w.nii')
    (tmp_path / 'filter.json').write_text(json.dumps({'t1w': query, 'bold': {'task': 'rest'}}))
    filters = read_filters(tmp_path / 'filter.json', DEFAULT_SUFFIXES)
    images, skipped = find_images(root, filters=filters)
    expected = [files[name] for name in names] + ['sub-1/anat/sub-1_T2w.nii']
    assert sorted(relative(images)) == sorted(expected)
    assert len(skipped) == len(files) - len(names)
    assert all(entry.reason.startswith('left out by the filter file') for entry in skipped)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"t1": {}}', 'unknown query t1; there are: ct, flair, inplanet1'),
        ('{"t1w": {"colour": 1}}', 'unknown entity colour; there are: acq, acquisition'),
        ('{"t1w": 1}', 'give {"SUFFIX": {"ENTITY": VALUE}}'),
        ('{', 'not JSON'),
    ],
)
def test_filter_file_that_makes_no_sense(tmp_path, text, message):
    (tmp_path / 'filter.json').write_text(text)
    with pytest.raises(QueryError, match=re.escape(message)):
        read_filters(tmp_path / 'filter.json', DEFAULT_SUFFIXES)


@pytest.mark.parametrize(
    ('rules', 'ignored'),
    [
        ('*_T2w.nii*', ['ses-a_T2w', 'ses-b_T2w']),
        ('# nothing\n\n', []),
        ('sub-1/ses-a/', ['ses-a_T1w', 'ses-a_T2w']),
        ('ses-b', ['ses-b_T1w', 'ses-b_T2w']),
        ('/ses-b', []),
        ('anat/', ['ses-a_T1w', 'ses-a_T2w', 'ses-b_T1w', 'ses-b_T2w']),
        ('sub-1/**/*_T1w.nii', ['ses-a_T1w', 'ses-b_T1w']),
        ('**/ses-[ac]/**', ['ses-a_T1w', 'ses-a_T2w']),
        ('*_T?w.nii\n!*ses-a_T1w.nii', ['ses-a_T2w', 'ses-b_T1w', 'ses-b_T2w']),
    ],
)
def test_bidsignore(touch, rules, ignored):
    sessions = [f'ses-{s}' for s in 'ab']
    root = touch(*(f'sub-1/{s}/anat/sub-1_{s}_{t}.nii' for s in sessions for t in ('T1w', 'T2w')))
    (root / '.bidsignore').write_text(rules)
    skipped = find_images(root)[1]
    assert [Path(e.relative).stem.removeprefix('sub-1_') for e in skipped] == ignored
    assert all(entry.reason == 'named in .bidsignore' for entry in skipped)


def test_the_index_finds_the_same_images(tmp_path):
    root = tmp_path / 'raw'
    header = nib.Nifti1Header()
    header.set_data_shape((9, 9, 9))
    for participant in range(25):
        for session in 'ab':
            folder = root / f'sub-{participant:04d}' / f'ses-{session}' / 'anat'
            folder.mkdir(parents=True)
            for suffix in ('T1w', 'T2w', 'FLAIR', 'angio'):
                name = f'sub-{participant:04d}_ses-{session}_{suffix}.nii'
                (folder / name).write_bytes(header.binaryblock)
    (root / '.bidsignore').write_text('*_phase.nii\nsub-0000/\n')
    images, skipped = find_images(root)
    images, clashes = plan_outputs(images, {})
    assert (len(images), len(skipped), len(clashes)) == (144, 56, 0)
    # Written, and read.
    for _ in range(2):
        again, skipped_again = find_images(root, database=tmp_path / 'index')
        assert (plan_outputs(again, {})[0], skipped_again) == (images, skipped)


def test_the_first_echo_that_there_is(touch):
    names = [
        'sub-1/anat/sub-1_acq-a_echo-02_T2starw.nii.gz',
        'sub-1/anat/sub-1_acq-a_echo-10_T2starw.nii.gz',
        'sub-1/anat/sub-1_acq-a_echo-3_T2starw.nii.gz',
        'sub-1/anat/sub-1_acq-b_echo-3_T2starw.nii.gz',
        'sub-1/anat/sub-1_echo-4_T2w.nii.gz',
        'sub-1/anat/sub-1_T1w.nii.gz',
        'sub-2/anat/sub-2_acq-a_echo-3_T2starw.nii.gz',
    ]
    images, _ = find_images(touch(*names))
    kept, skipped = keep_first_echoes(images)
    assert {*relative(kept)} == {names[0], *names[3:]}
    assert {*relative(skipped)} == {*names[1:3]}
    assert {entry.reason for entry in skipped} == {'not the first echo'}


@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize('order', '<>')
def test_grids_are_read_from_headers(tmp_path, kind, order):
    image = kind(np.zeros((5, 6, 7, 1), np.uint8), np.diag([-0.5, 1, 2.5, 1]))
    image = kind(image.dataobj, image.affine, image.header.as_byteswapped(order))
    path = tmp_path / 'sub-1/anat/sub-1_T1w.nii.gz'
    path.parent.mkdir(parents=True)
    nib.save(image, path)
    ((found,), _) = find_images(tmp_path)
    assert found.grid == ((5, 6, 7), (0.5, 1.0, 2.5))


@pytest.mark.parametrize('content', [b'', b'not an image', gzip.compress(b'x' * 400, mtime=0)])
def test_headers_without_sense_have_no_grid(touch, content):
    root = touch('sub-1/anat/sub-1_T1w.nii.gz')
    (root / 'sub-1/anat/sub-1_T1w.nii.gz').write_bytes(content)
    ((found,), _) = find_images(root)
    assert found.grid is None
