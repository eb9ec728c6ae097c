"""The dataset of one image per participant that sMRIPrep and fMRIPrep take."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tissue_tree import add_image, make_labels, write_results

from synthseg_bids.bids.damage import damaged_outputs, markers
from synthseg_bids.bids.names import TISSUE_KINDS
from synthseg_bids.bids.precomputed import write_precomputed
from synthseg_bids.bids.references import find_reference
from synthseg_bids.bids.save import output_files, save_image_outputs, why_outdated
from synthseg_bids.cli.evaluate import find_scans
from synthseg_bids.files import read_table, sha256
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.tissues import brain_mask, three_tissues

T1W = 'sub-01/anat/sub-01_T1w.nii.gz'
NAMES = {'desc-brain_mask', 'dseg', 'label-CSF_probseg', 'label-GM_probseg', 'label-WM_probseg'}
HELPERS = Path(__file__).parents[1] / 'helpers'


def write(root: Path, *participants: str, verify: bool = False) -> Path:
    folder = root / 'pre'
    write_precomputed(root / 'out', folder, root / 'raw', participants or ['01'], verify)
    return folder


def images(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*.nii.gz')}


def source(folder: Path) -> str:
    """Return the image that was chosen."""
    (mask,) = folder.rglob('*_desc-brain_mask.json')
    return json.loads(mask.read_text())['Sources'][0].rpartition('/')[2]


def stamps(folder: Path) -> dict[str, int]:
    paths = [path for path in folder.rglob('*') if path.is_file() and 'sub-' in path.name]
    return {path.name: path.stat().st_mtime_ns for path in paths}


def test_plain_names_with_their_truth(tmp_path):
    add_image(tmp_path, T1W)
    folder = write(tmp_path)
    assert images(folder) == {f'sub-01/anat/sub-01_{name}.nii.gz' for name in NAMES}
    scan = nib.as_closest_canonical(nib.load(tmp_path / 'raw' / T1W))
    expected = nib.as_closest_canonical(nib.Nifti1Image(make_labels(), scan_affine(tmp_path)))
    labels = np.asanyarray(expected.dataobj)
    loaded = {
        name: nib.load(folder / f'sub-01/anat/sub-01_{name}.nii.gz') for name in sorted(NAMES)
    }
    for image in loaded.values():
        np.testing.assert_array_equal(image.affine, scan.affine)
        assert image.shape == scan.shape
    np.testing.assert_array_equal(loaded['dseg'].dataobj, three_tissues(labels))
    mask = np.asanyarray(loaded['desc-brain_mask'].dataobj)
    np.testing.assert_array_equal(mask, brain_mask(labels, np.full(3, 2.0)))
    total = 0
    for number, tissue in enumerate(('GM', 'WM', 'CSF'), 1):
        values = loaded[f'label-{tissue}_probseg'].get_fdata()
        np.testing.assert_allclose(values, three_tissues(labels) == number, atol=1e-6)
        total = total + values
    assert total.max() <= 1 + 1e-6


def scan_affine(root: Path) -> np.ndarray:
    return nib.load(root / 'raw' / T1W).affine


def test_description_and_table(tmp_path):
    add_image(tmp_path, T1W)
    folder = write(tmp_path)
    description = json.loads((folder / 'dataset_description.json').read_text())
    assert description['DatasetType'] == 'derivative'
    assert description['DatasetLinks'] == {'raw': '../raw', 'segmentations': '../out'}
    for sidecar in folder.rglob('sub-*.json'):
        content = json.loads(sidecar.read_text())
        for uri in content['Sources']:
            _, name, relative = uri.split(':')
            assert (folder / description['DatasetLinks'][name] / relative).is_file()
    rows = read_table(folder / 'dseg.tsv')
    assert [(row['index'], row['abbreviation'], row['mapping']) for row in rows] == [
        ('0', 'BG', '0'), ('1', 'GM', '1'), ('2', 'WM', '2'), ('3', 'CSF', '3'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('others', 'best'),
    [
        ({'sub-01_T2w': {'mm': 0.5}, 'sub-01_T1w': {}}, 'sub-01_T1w'),
        ({'sub-01_FLAIR': {}, 'sub-01_PDw': {}, 'sub-01_T2w': {}}, 'sub-01_T2w'),
        ({'sub-01_T2starw': {'mm': 1.0}, 'sub-01_FLAIR': {}}, 'sub-01_FLAIR'),
        ({'sub-01_run-1_T1w': {'mm': 1.5}, 'sub-01_run-2_T1w': {'mm': 1.0}}, 'sub-01_run-2_T1w'),
        ({'sub-01_run-1_T1w': {}, 'sub-01_run-2_T1w': {}}, 'sub-01_run-1_T1w'),
        ({'sub-01_T1w': {'verdict': 'fail'}, 'sub-01_T2w': {'verdict': 'review'}}, 'sub-01_T2w'),
        ({'sub-01_T1w': {'verdict': 'fail'}}, 'sub-01_T1w'),
        ({'sub-01_T1w': {'status': 'failed'}, 'sub-01_T2w': {}}, 'sub-01_T2w'),
    ],
    ids=['T1w first', 'T2w next', 'FLAIR before others', 'finer', 'by name', 'failed last',
         'failed alone', 'not segmented'],
)  # fmt: skip
def test_which_image_is_chosen(tmp_path, others, best):
    for name, options in others.items():
        add_image(tmp_path, f'sub-01/anat/{name}.nii.gz', **options)
    assert source(write(tmp_path)) == f'{best}.nii.gz'


def test_one_session_is_chosen_and_changes(tmp_path):
    for visit in 'ab':
        add_image(tmp_path, f'sub-01/ses-{visit}/anat/sub-01_ses-{visit}_T1w.nii.gz')
    folder = write(tmp_path)
    assert images(folder) == {f'sub-01/ses-a/anat/sub-01_ses-a_{name}.nii.gz' for name in NAMES}
    # What becomes of the first is that its quality fails.
    add_image(tmp_path, 'sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz', verdict='fail')
    stranger = folder / 'sub-01/ses-a/anat/notes.txt'
    stranger.touch()
    write(tmp_path)
    assert images(folder) == {f'sub-01/ses-b/anat/sub-01_ses-b_{name}.nii.gz' for name in NAMES}
    assert [path.name for path in stranger.parent.iterdir()] == ['notes.txt']


def test_several_t1w_images_are_told(tmp_path, caplog):
    for run in (1, 2):
        add_image(tmp_path, f'sub-01/anat/sub-01_run-{run}_T1w.nii.gz')
    write(tmp_path)
    assert 'choose sub-01_run-1_T1w.nii.gz by --bids-filter-file' in caplog.text


@pytest.mark.parametrize('harm', ['cut', 'gone', 'byte'])
@pytest.mark.parametrize('name', ['dseg.nii.gz', 'dseg.json', 'label-GM_probseg.nii.gz'])
def test_second_run_writes_what_is_missing_or_damaged(tmp_path, name, harm):
    add_image(tmp_path, T1W)
    folder = write(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob('sub-*') if path.is_file()}
    stamp = stamps(folder)
    write(tmp_path, verify=True)
    assert stamps(folder) == stamp
    path = folder / f'sub-01/anat/sub-01_{name}'
    if harm == 'gone':
        path.unlink()
    elif harm == 'cut':
        path.write_bytes(path.read_bytes()[:-9])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    write(tmp_path, verify=harm == 'byte')
    assert {path: path.read_bytes() for path in before} == before


def test_a_participant_without_maps_is_left_out(tmp_path, caplog):
    add_image(tmp_path, T1W)
    add_image(tmp_path, 'sub-02/anat/sub-02_T1w.nii.gz')
    folder = write(tmp_path, '01', '02')
    (damaged,) = (tmp_path / 'out').rglob('sub-02*label-GM*.nii.gz')
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert damaged_outputs(tmp_path / 'out')
    with caplog.at_level(logging.WARNING):
        write(tmp_path, '01', '02')
    assert 'sub-02: no image has masks and tissue maps' in caplog.text
    assert images(folder) == {f'sub-01/anat/sub-01_{name}.nii.gz' for name in NAMES}


def test_masks_and_maps_of_an_image_are_outputs_like_others(tmp_path):
    image = add_image(tmp_path, T1W)
    out, anat = tmp_path / 'out', tmp_path / 'out/sub-01/anat'
    kinds = [kind for names in TISSUE_KINDS.values() for kind in names if kind != 'five_tissue']
    expected = {'SoftwareVersion': '1', 'InputSHA256': sha256(tmp_path / 'raw' / T1W)}
    assert why_outdated(out, image.stem, ['dseg', *kinds], {}, expected) == ''
    assert why_outdated(out, image.stem, ['five_tissue', 'dseg'], {}, expected) == (
        'sub-01_seg-synthseg5tt_desc-T1w_probseg.nii.gz is missing'
    )
    names = output_files(image.stem, kinds)
    assert len(names) == 12
    for name in names:
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[:-1])
        assert list(damaged_outputs(out)) == [name]
        reason = why_outdated(out, image.stem, ['dseg', *kinds], {}, expected)
        assert reason.startswith(Path(name).name)
        (out / name).write_bytes(content)
    # What an earlier model has left goes, but what another method leaves of ours.
    files = write_results(tmp_path / 'work', tmp_path / 'raw' / T1W, make_labels(), 'pass')
    label_map = {kind: files[kind] for kind in ('dseg', 'morph')}
    for stem in (image.stem.replace('synthseg', 'samseg'), image.stem):
        assert (anat / 'sub-01_label-brain_desc-T1w_mask.nii.gz').exists()
        for version in '12':
            new = {'SoftwareVersion': version}
            save_image_outputs(out, stem, label_map, image.source, {}, [], new)
    assert not any((out / name).exists() for name in names)


def test_label_maps_of_tissues_are_no_segmentations(tmp_path):
    image = add_image(tmp_path, T1W)
    out = tmp_path / 'out'
    segmentation = f'{image.stem}_dseg.nii.gz'
    assert [path.name for path in markers(out)] == ['sub-01_seg-synthseg_desc-T1w_dseg.json']
    assert find_reference(image, {'ours': out}) == {'ours': out / segmentation}
    assert [scan.path for scan in find_scans(out, {})] == [out / segmentation]


def test_both_trees_are_valid_bids(tmp_path, validator):
    add_image(tmp_path, T1W)
    add_image(tmp_path, 'sub-02/ses-a/anat/sub-02_ses-a_acq-x_run-1_T2w.nii.gz')
    write(tmp_path, '01', '02')
    for name in ('out', 'pre'):
        answer = subprocess.run([validator, str(tmp_path / name)], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout


@pytest.fixture(scope='module')
def taken(tmp_path_factory) -> tuple[dict, Path]:
    """What sMRIPrep's own functions make of the dataset."""
    python = os.environ.get('SMRIPREP_PYTHON')
    if python is None and importlib.util.find_spec('smriprep') is None:
        pytest.skip('smriprep is not installed: use make test-smriprep')
    root = tmp_path_factory.mktemp('smriprep')
    add_image(root, T1W)
    add_image(root, 'sub-01/anat/sub-01_T2w.nii.gz', mm=1.0)
    folder = write(root)
    script = HELPERS / 'smriprep_takes.py'
    command = [python or sys.executable, '-W', 'ignore', script, folder, '01', root / 'raw' / T1W]
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder


def test_smriprep_collects_them(taken):
    answer, folder = taken
    start = f'{folder}/sub-01/anat/sub-01_'
    assert answer['found'] == {
        't1w_mask': f'{start}desc-brain_mask.nii.gz',
        't1w_dseg': f'{start}dseg.nii.gz',
        't1w_tpms': [f'{start}label-{tissue}_probseg.nii.gz' for tissue in ('GM', 'WM', 'CSF')],
    }


def test_they_fit_the_scan_that_smriprep_conforms(taken):
    answer, folder = taken
    assert len(answer['on the grid']) == 5
    assert all(answer['on the grid'].values())
    mask = nib.load(folder / 'sub-01/anat/sub-01_desc-brain_mask.nii.gz').get_fdata()
    assert answer['masked voxels'] == mask.sum()
    labels = make_labels()
    expected = [np.unique(labels[three_tissues(labels) == n] % 7 * 30 + 20) for n in (1, 2, 3)]
    assert answer['intensities'] == [values.tolist() for values in expected]


def test_tissues_are_those_that_smriprep_makes_of_aseg(taken):
    table = np.array(taken[0]['aseg to three'])
    labels = np.array([label.index for label in segmentation_labels(lesions=True)])
    np.testing.assert_array_equal(three_tissues(labels), table[labels])
