"""Everything that is written, but for the label maps themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.bids.atomic import copy_file, read_table, write_table, write_text
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.metadata import describe_dataset, label_map_sidecar, posteriors_sidecar
from synthseg_bids.bids.query import QueryError
from synthseg_bids.bids.save import is_up_to_date, output_files, save_image_outputs
from synthseg_bids.bids.status import Outcome, write_status
from synthseg_bids.bids.tables import TOTAL_NAME, write_dice_table, write_morph_table
from synthseg_bids.bids.validate import report_bids_errors
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measures import MEAN_NAME

PROVENANCE = {
    'SoftwareVersion': '1',
    'ModelSHA256': 'm',
    'FlipAveraging': True,
    'InputSHA256': 'i',
}
STEM = 'sub-1/ses-a/anat/sub-1_ses-a_acq-x_run-1_seg-synthseg_desc-T1w'
SOURCE = 'bids:raw:sub-1/ses-a/anat/sub-1_ses-a_acq-x_run-1_T1w.nii.gz'


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / 'results'
    folder.mkdir()
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, folder / 'dseg.nii.gz')
    volumes = {17: (10, 20.0), 53: (5, 10.0)}
    write_morph_table(folder / 'morph.tsv', volumes, 30.0, [1.5] * len(segmentation_labels()))
    rows = [
        {'reference': name, 'index': 17, 'name': 'Left-Hippocampus', 'dice': 0.5}
        for name in ('fs', 'other')
    ]
    rows.append({'reference': 'fs', 'name': MEAN_NAME, 'dice': float('nan')})
    write_dice_table(folder / 'dice.tsv', rows)
    return {kind: folder / f'{kind}.{end}' for kind, end in
            (('dseg', 'nii.gz'), ('morph', 'tsv'), ('dice', 'tsv'))}  # fmt: skip


def save(out: Path, results: dict[str, Path], kinds: str, provenance=PROVENANCE) -> list[str]:
    chosen = {kind: results[kind] for kind in kinds.split()}
    return save_image_outputs(out, STEM, chosen, SOURCE, ['bids:fs:x'], provenance)


def test_files_appear_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / 'a.txt', 'old')
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / 'missing', tmp_path / 'a.txt')
    assert (tmp_path / 'a.txt').read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_table_round_trip(tmp_path):
    rows = [{'a': 1.23456789, 'b': None}, {'a': float('nan'), 'b': 'x\ty\nz'}, {'a': 1234567.8}]
    write_table(tmp_path / 't.tsv', ['a', 'b'], rows)
    assert read_table(tmp_path / 't.tsv') == [
        {'a': '1.23457', 'b': 'n/a'},
        {'a': 'n/a', 'b': 'x y z'},
        {'a': '1234567.800', 'b': 'n/a'},
    ]
    assert read_table(tmp_path / 'none.tsv') == []


def test_description_of_the_dataset(tmp_path):
    raw, out, reference = (tmp_path / name for name in ('raw', 'raw/derivatives/out', 'ref'))
    raw.mkdir()
    write_text(raw / 'dataset_description.json', '{"Name": "Raw", "License": "CC0"}')
    describe_dataset(out, raw, {'fs': reference})
    describe_dataset(out, raw, {})
    content = json.loads((out / 'dataset_description.json').read_text())
    assert content['GeneratedBy'][0]['Name'] == 'synthseg-bids'
    # Links of an earlier run stay: its sidecars use them.
    assert content['DatasetLinks'] == {'raw': '../..', 'fs': '../../../ref'}
    assert (content['DatasetType'], content['License']) == ('derivative', 'CC0')
    rows = read_table(out / 'seg-synthseg_dseg.tsv')
    assert list(rows[0]) == ['index', 'name', 'abbreviation', 'color', 'mapping']
    assert [int(row['index']) for row in rows] == [label.index for label in segmentation_labels()]


@pytest.mark.parametrize('text', ['{broken', '[]', ''])
def test_broken_raw_description_does_not_stop_us(tmp_path, text):
    write_text(tmp_path / 'raw/dataset_description.json', text)
    describe_dataset(tmp_path / 'out', tmp_path / 'raw', {})
    assert (tmp_path / 'out/dataset_description.json').exists()


def test_output_of_another_tool_is_not_touched(tmp_path):
    write_text(tmp_path / 'out/dataset_description.json', '{"Name": "fMRIPrep"}')
    with pytest.raises(QueryError, match='another dataset'):
        describe_dataset(tmp_path / 'out', tmp_path, {})


def test_sidecars_name_source_and_labels():
    assert label_map_sidecar(SOURCE, PROVENANCE)['SpatialReference'] == SOURCE
    assert len(posteriors_sidecar(SOURCE, {})['LabelMap']) == len(segmentation_labels())


def test_morph_table(results):
    rows = read_table(results['morph'])
    assert list(rows[0]) == ['index', 'name', 'volume_mm3', 'n_voxels', 'soft_volume_mm3']
    assert len(rows) == len(segmentation_labels())
    assert '0' not in {row['index'] for row in rows}
    hippocampus = next(row for row in rows if row['index'] == '17')
    assert (hippocampus['volume_mm3'], hippocampus['n_voxels']) == ('20', '10')
    assert rows[-1] == {
        'index': 'n/a',
        'name': TOTAL_NAME,
        'volume_mm3': '30',
        'n_voxels': '15',
        'soft_volume_mm3': str(1.5 * (len(rows) - 1)).removesuffix('.0'),
    }


def test_saved_files(tmp_path, results):
    out = tmp_path / 'out'
    written = save(out, results, 'dseg morph dice')
    expected = output_files(STEM, ['dseg', 'morph', 'dice'])
    assert sorted(written) == sorted(str(out / name) for name in expected)
    assert all(Path(path).exists() for path in written)
    assert written[-1].endswith('_dseg.json')
    assert json.loads((out / f'{STEM}_dice.json').read_text())['Sources'] == [SOURCE, 'bids:fs:x']


def test_up_to_date(tmp_path, results):
    out = tmp_path / 'out'
    save(out, results, 'dseg morph dice')

    def current(kinds='dseg morph', references=(), **changes):
        return is_up_to_date(out, STEM, kinds.split(), references, {**PROVENANCE, **changes})

    assert current()
    assert current('dseg morph dice', ['bids:fs:x'])
    assert not current('dseg morph dice', ['bids:fs:y'])
    assert not current('dseg morph probseg')
    for field in PROVENANCE:
        assert not current(**{field: 'changed'})
    (out / f'{STEM}_morph.tsv').unlink()
    assert not current()


def test_results_of_another_model_do_not_stay(tmp_path, results):
    out = tmp_path / 'out'
    save(out, results, 'dseg morph dice')
    save(out, results, 'dseg morph')
    assert (out / f'{STEM}_dice.tsv').exists()
    save(out, results, 'dseg morph', {**PROVENANCE, 'ModelSHA256': 'n'})
    assert not (out / f'{STEM}_dice.tsv').exists()


def test_group_tables_hold_what_the_tree_holds(tmp_path, results):
    save(tmp_path, results, 'dseg morph dice')
    write_group_tables(tmp_path)
    (morph,) = read_table(tmp_path / 'group_morph.tsv')
    assert (morph['participant_id'], morph['session_id']) == ('sub-1', 'ses-a')
    assert (morph['source'], morph['contrast'], morph['run_id']) == (SOURCE, 'T1w', '1')
    assert (morph['Left-Hippocampus'], morph[TOTAL_NAME]) == ('20', '30')
    dice = read_table(tmp_path / 'group_dice.tsv')
    assert [(row['reference'], row['Left-Hippocampus']) for row in dice] == [
        ('fs', '0.5'),
        ('other', '0.5'),
    ]
    assert {*json.loads((tmp_path / 'group_dice.json').read_text())} == {*dice[0]}
    assert read_table(tmp_path / 'descriptions.tsv')[0]['desc_id'] == 'desc-T1w'
    shutil.rmtree(tmp_path / 'sub-1')
    write_group_tables(tmp_path)
    assert not (tmp_path / 'group_morph.tsv').exists()


def test_status_keeps_images_of_other_runs(tmp_path):
    first, second = 'sub-1/anat/sub-1_T1w.nii', 'sub-2/ses-b/anat/sub-2_ses-b_T1w.nii'
    write_status(
        tmp_path, [Outcome(first, 'failed', 'bad'), Outcome(second, 'done', seconds=1.26)]
    )
    write_status(tmp_path, [Outcome(first, 'done', device='cpu')])
    one, two = read_table(tmp_path / 'group_status.tsv')
    assert (one['status'], one['reason'], one['device']) == ('done', 'n/a', 'cpu')
    assert (two['participant_id'], two['session_id'], two['seconds']) == ('sub-2', 'ses-b', '1.3')


def test_tree_is_valid_bids(tmp_path, results):
    validator = shutil.which('bids-validator-deno')
    if validator is None:
        pytest.skip('bids-validator-deno is not installed')
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    raw.mkdir()
    describe_dataset(out, raw, {'fs': tmp_path})
    save(out, results, 'dseg morph dice')
    write_group_tables(out)
    write_status(out, [Outcome('sub-1/anat/sub-1_T1w.nii', 'done')])
    write_text(out / 'logs/run/sub-1/crash.txt', 'x')
    answer = subprocess.run([validator, str(out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_validator_reports_on_selected_participants(tmp_path):
    if shutil.which('bids-validator-deno') is None:
        pytest.skip('bids-validator-deno is not installed')
    write_text(tmp_path / 'dataset_description.json', '{"Name": "x", "BIDSVersion": "1.10.1"}')
    for participant in '12':
        write_text(tmp_path / f'sub-{participant}/anat/sub-{participant}_wrong.nii.gz', '')
    lines = report_bids_errors(tmp_path, {'1'}, tmp_path / 'cache')
    assert lines
    assert all('/sub-1/anat/sub-1_wrong' in line for line in lines)


def test_missing_validator_is_no_problem(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert report_bids_errors(tmp_path, {'1'}, tmp_path) == []
