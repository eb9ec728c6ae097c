"""The index of images by pybids: its database, its queries, and what it cannot read."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from synthseg_bids.bids.errors import QueryError
from synthseg_bids.bids.filters import read_filters
from synthseg_bids.bids.layout import DATABASE_FILE, index_images
from synthseg_bids.bids.query import DEFAULT_SUFFIXES, LITTER_REASON, find_images

T1W = 'sub-1/anat/sub-1_T1w.nii.gz'


def relative(images) -> list[str]:
    return [image.relative for image in images]


def write_filter(folder, query):
    path = folder / 'filter.json'
    path.write_text(json.dumps({'t1w': query}))
    return read_filters(path, DEFAULT_SUFFIXES)


def test_only_images_of_wanted_participants_are_indexed(touch):
    root = touch(
        T1W,
        'sub-1/ses-a/anat/sub-1_ses-a_T2w.nii',
        'sub-1/anat/sub-1_T1w.json',
        'sub-1/func/sub-1_bold.nii.gz',
        'sub-10/anat/sub-10_T1w.nii.gz',
        'derivatives/x/sub-1/anat/sub-1_T1w.nii.gz',
        'sourcedata/sub-1/anat/sub-1_T1w.nii.gz',
    )
    assert index_images(root, ['1']).files == {T1W, 'sub-1/ses-a/anat/sub-1_ses-a_T2w.nii'}
    assert len(index_images(root).files) == 3


@pytest.mark.parametrize(
    ('value', 'runs'),
    [
        ('<Query.NONE: 1>', ['']),
        ('<Query.ANY: 2>', ['1', '02']),
        ('<Query.REQUIRED: 2>', ['1', '02']),
        ('Query.OPTIONAL', ['1', '02', '']),
        (['<Query.NONE: 1>', '2'], ['02', '']),
        ([1, 2], ['1', '02']),
    ],
)
def test_enums_of_pybids(touch, tmp_path, value, runs):
    names = {'1': '_run-1', '02': '_run-02', '': ''}
    files = {run: f'sub-1/anat/sub-1{part}_T1w.nii' for run, part in names.items()}
    images, _ = find_images(touch(*files.values()), filters=write_filter(tmp_path, {'run': value}))
    assert {*relative(images)} == {files[run] for run in runs}


@pytest.mark.parametrize(
    ('value', 'message'),
    [('<Query.SOME: 4>', 'unknown <Query.SOME: 4>; there are: NONE'), ({'a': 1}, 'not a label')],
)
def test_values_that_make_no_sense(tmp_path, value, message):
    with pytest.raises(QueryError, match=message):
        write_filter(tmp_path, {'run': value})


def test_regular_expressions(touch, tmp_path):
    root = touch('sub-1/anat/sub-1_acq-hires07_T1w.nii', 'sub-1/anat/sub-1_acq-low_T1w.nii')
    filters = write_filter(tmp_path, {'acquisition': '^hires', 'regex_search': True})
    images, (skipped,) = find_images(root, filters=filters)
    assert [image.entities['acq'] for image in images] == ['hires07']
    assert skipped.reason == 'left out by the filter file: acq-low'


@pytest.mark.parametrize('folder', ['func', 'ses-z', 'sub-9', 'my raw #1 [x] 100%'])
@pytest.mark.parametrize('query', [{'datatype': 'anat'}, {'session': 'a'}, {'subject': '1'}])
def test_the_path_of_the_dataset_is_no_entity(tmp_path, folder, query):
    root = tmp_path / folder / 'raw'
    path = root / 'sub-1/ses-a/anat/sub-1_ses-a_T1w.nii'
    path.parent.mkdir(parents=True)
    path.touch()
    assert len(find_images(root, filters=write_filter(tmp_path, query))[0]) == 1


def test_names_that_are_not_text(touch):
    root = touch(T1W)
    path = os.fsencode(root / 'sub-1/anat') + b'/sub-1_acq-\xeb_T1w.nii.gz'
    os.close(os.open(path, os.O_CREAT))
    images, (skipped,) = find_images(root)
    assert relative(images) == [T1W]
    assert skipped.reason == 'not a BIDS file name; rename it'


def test_a_dataset_whose_path_is_not_text(tmp_path):
    root = os.fsencode(tmp_path) + b'/\xeb'
    os.makedirs(root + b'/sub-1/anat')
    with pytest.raises(QueryError, match=r'udceb: the path is not UTF-8; rename'):
        find_images(type(tmp_path)(os.fsdecode(root)))


def test_a_folder_in_place_of_an_image(touch):
    root = touch('sub-1/anat/sub-1_T2w.nii.gz')
    (root / T1W).mkdir()
    assert find_images(root)[1][0].reason == 'is a folder; give an image file'


@pytest.mark.parametrize(
    ('text', 'error'),
    [(b'\xef\xbb\xbf{"Name": "x"}', None), (b'{"Name": "\xeb"}', None), (b'{', None),
     (b'{"DatasetType": "derivative", "PipelineDescription": {}}', None),
     (b'["x"]', r'dataset_description\.json: not a JSON object')],
)  # fmt: skip
def test_descriptions_do_not_matter(touch, text, error):
    root = touch(T1W)
    (root / 'dataset_description.json').write_bytes(text)
    if error:
        with pytest.raises(QueryError, match=error):
            find_images(root)
    else:
        assert relative(find_images(root)[0]) == [T1W]


def test_database_is_kept_and_holds_everybody(touch, tmp_path):
    root = touch(T1W, 'sub-2/anat/sub-2_T1w.nii.gz')
    database = tmp_path / 'deep' / 'index'
    assert relative(find_images(root, ['1'], database=database)[0]) == [T1W]
    assert [path.name for path in database.iterdir()] == [DATABASE_FILE]
    before = (database / DATABASE_FILE).stat().st_mtime_ns
    assert len(find_images(root, database=database)[0]) == 2
    assert (database / DATABASE_FILE).stat().st_mtime_ns == before
    link = tmp_path / 'link'
    link.symlink_to(root)
    assert len(find_images(link, database=database)[0]) == 2


def test_a_database_that_is_out_of_date_is_told(touch, tmp_path):
    root = touch(T1W, 'sub-2/anat/sub-2_T1w.nii.gz')
    find_images(root, database=tmp_path)
    (root / T1W).rename(root / 'sub-1/anat/sub-1_T2w.nii.gz')
    images, skipped = find_images(root, database=tmp_path)
    assert len(images) == 1
    assert {entry.relative.split('_')[-1]: entry.reason for entry in skipped} == {
        'T1w.nii.gz': 'no longer in the dataset; use --bids-database-wipe',
        'T2w.nii.gz': 'not in the database; use --bids-database-wipe',
    }
    assert all(entry.surprising for entry in skipped)
    images, skipped = find_images(root, database=tmp_path, wipe=True)
    assert (len(images), skipped) == (2, [])


def test_databases_of_something_else_are_refused(touch, tmp_path):
    root = touch(T1W)
    other = tmp_path / 'other'
    (other / 'sub-3/anat').mkdir(parents=True)
    find_images(other, database=tmp_path / 'index')
    with pytest.raises(QueryError, match=r'has the index of .*other, not of'):
        find_images(root, database=tmp_path / 'index')
    assert len(find_images(root, database=tmp_path / 'index', wipe=True)[0]) == 1
    for content in (b'not a database', b''):
        (tmp_path / 'index' / DATABASE_FILE).write_bytes(content)
        with pytest.raises(QueryError, match='not a database of pybids'):
            find_images(root, database=tmp_path / 'index')
    (tmp_path / 'file').touch()
    with pytest.raises(QueryError, match='cannot be written'):
        find_images(root, database=tmp_path / 'file' / 'index')


def test_a_database_without_tables_of_files(touch, tmp_path):
    root = touch(T1W)
    find_images(root, database=tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        connection.execute('DROP TABLE files')
    connection.close()
    with pytest.raises(QueryError, match=r'cannot be queried .*use --bids-database-wipe'):
        find_images(root, database=tmp_path)


def test_litter(touch):
    litter = ['._sub-1_T1w.nii.gz', '.DS_Store', 'Thumbs.db', 'sub-1_T1w.nii.gz~', '#sub-1.nii#']
    images, skipped = find_images(touch(T1W, *(f'sub-1/anat/{name}' for name in litter)))
    assert relative(images) == [T1W]
    assert {entry.relative.rpartition('/')[2] for entry in skipped} == {*litter}
    assert {entry.reason for entry in skipped} == {LITTER_REASON}


def test_pybids_is_imported_when_it_is_needed():
    code = (
        'import sys, synthseg_bids.app.parser, synthseg_bids.bids.query;'
        'print([name for name in ("bids", "sqlalchemy") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'
