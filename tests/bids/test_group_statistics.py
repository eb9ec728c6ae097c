"""The volumes of all images with what statistics need, and the table for brain charts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_group_tables import add_image

from synthseg_bids.bids.brain_charts import VENTRICLES
from synthseg_bids.bids.covariates import read_covariates
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.group_morph import PROPORTION, RESIDUAL
from synthseg_bids.bids.inheritance import Sidecars
from synthseg_bids.bids.metadata import describe_dataset
from synthseg_bids.bids.tables import TOTAL_NAME, morph_rows, write_morph_table, write_qc_table
from synthseg_bids.files import write_json, write_text
from synthseg_bids.labels import LESION, segmentation_labels
from synthseg_bids.measure.qc import judge
from synthseg_bids.measure.stats import regression_residuals

LABELS = [label for label in segmentation_labels() if label.index]
NAMES = {label.index: label.name for label in segmentation_labels(lesions=True)}
HIPPOCAMPUS = 'Left-Hippocampus'


def add_volumes(
    out: Path,
    name: str,
    contrast: str,
    volumes: dict[int, float],
    flip_dice: float = 0.95,
    folder: str = '',
) -> None:
    """Write the tables of one image; the quality measure decides on the verdict."""
    stem = f'{out}/{folder or name.partition("_")[0]}/anat/{name}_seg-synthseg_desc-{contrast}'
    every = {index: (1, volume) for index, volume in volumes.items()}
    write_morph_table(Path(f'{stem}_morph.tsv'), morph_rows(every, sum(volumes.values())))
    write_qc_table(Path(f'{stem}_qc.tsv'), judge({'flip_dice': flip_dice}, {}))
    relative = f'{folder or name.partition("_")[0]}/anat/{name}_{contrast}.nii.gz'
    for kind in ('morph', 'qc'):
        write_json(Path(f'{stem}_{kind}.json'), {'Sources': [f'bids:raw:{relative}']})


def read(path: Path, **options) -> pd.DataFrame:
    return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False, **options)


def dictionary(path: Path) -> dict:
    return json.loads(path.with_suffix('.json').read_text())


@pytest.fixture
def raw(tmp_path) -> Path:
    raw = tmp_path / 'raw'
    write_json(raw / 'dataset_description.json', {'Name': 'My Study', 'BIDSVersion': '1.10.0'})
    return raw


def random_volumes(rng: np.random.Generator) -> dict[int, float]:
    return {label.index: float(rng.uniform(1000, 9000)) for label in LABELS}


def test_corrections_for_head_size(tmp_path, rng):
    for i in range(9):
        add_volumes(tmp_path, f'sub-{i}', 'T1w', random_volumes(rng))
        # Another contrast has a line of its own.
        doubled = {index: 2 * volume for index, volume in random_volumes(rng).items()}
        add_volumes(tmp_path, f'sub-{i}', 'T2w', doubled)
    add_volumes(tmp_path, 'sub-9', 'T1w', dict.fromkeys(NAMES, 1e6), flip_dice=0.1)
    add_volumes(tmp_path, 'sub-9', 'FLAIR', random_volumes(rng))
    write_group_tables(tmp_path)
    table = read(tmp_path / 'group_morph.tsv')
    assert table['verdict'].eq('fail').sum() == 1
    for contrast in ('T1w', 'T2w'):
        rows = table[(table['contrast'] == contrast) & (table['verdict'] != 'fail')]
        total = rows[TOTAL_NAME]
        for label in LABELS:
            volume, residual = rows[label.name], rows[label.name + RESIDUAL]
            np.testing.assert_allclose(rows[label.name + PROPORTION], volume / total, 1e-5)
            assert abs(residual.mean()) < 0.01
            assert abs(np.corrcoef(residual, total)[0, 1]) < 1e-4
            line = np.polyfit(total, volume, 1)
            np.testing.assert_allclose(residual, volume - np.polyval(line, total), atol=0.05)
    # The failed one has the residual from the line of the others; one image has no line.
    failed = table[table['verdict'] == 'fail'].iloc[0]
    rows = table[(table['contrast'] == 'T1w') & (table['verdict'] != 'fail')]
    line = np.polyfit(rows[TOTAL_NAME], rows[HIPPOCAMPUS], 1)
    expected = failed[HIPPOCAMPUS] - np.polyval(line, failed[TOTAL_NAME])
    assert failed[HIPPOCAMPUS + RESIDUAL] == pytest.approx(expected, rel=1e-4)
    alone = table[table['contrast'] == 'FLAIR'].iloc[0]
    assert np.isnan(alone[HIPPOCAMPUS + RESIDUAL])
    assert alone[HIPPOCAMPUS + PROPORTION] > 0
    described = dictionary(tmp_path / 'group_morph.tsv')
    assert [*described] == [*table.columns]
    assert 'least squares' in described[HIPPOCAMPUS + RESIDUAL]['Description']


def test_long_table_holds_the_same(tmp_path, rng):
    for i in range(6):
        add_volumes(tmp_path, f'sub-{i}', 'T1w', random_volumes(rng))
    write_group_tables(tmp_path)
    wide, long = read(tmp_path / 'group_morph.tsv'), read(tmp_path / 'group_morph_long.tsv')
    assert len(long) == 6 * len(LABELS)
    assert [*dictionary(tmp_path / 'group_morph_long.tsv')] == [*long.columns]
    for column, end in (
        ('volume_mm3', ''),
        ('proportion', PROPORTION),
        ('residual_mm3', RESIDUAL),
    ):
        back = long.pivot(index='source', columns='name', values=column)
        expected = wide.set_index('source')[[label.name + end for label in LABELS]]
        expected.columns = [label.name for label in LABELS]
        pd.testing.assert_frame_equal(back[expected.columns], expected, check_names=False)
    first = long[long['source'] == wide['source'][0]]
    assert [*first['name']] == [label.name for label in LABELS]
    assert set(first[TOTAL_NAME]) == {wide[TOTAL_NAME][0]}
    for path in tmp_path.rglob('*_morph.*'):
        path.unlink()
    write_group_tables(tmp_path)
    assert not [*tmp_path.glob('group_morph*')]


def test_lesions_have_columns_where_a_model_has_them(tmp_path):
    volumes = {label.index: 1000.0 for label in LABELS}
    add_volumes(tmp_path, 'sub-1', 'T1w', volumes)
    write_group_tables(tmp_path)
    assert NAMES[LESION] not in read(tmp_path / 'group_morph.tsv')
    add_volumes(tmp_path, 'sub-2', 'T1w', volumes | {LESION: 7.0})
    write_group_tables(tmp_path)
    lesions = read(tmp_path / 'group_morph.tsv').set_index('participant_id')[NAMES[LESION]]
    assert lesions['sub-2'] == 7
    assert np.isnan(lesions['sub-1'])


def test_participants_sessions_and_scanners_are_joined(tmp_path, raw, caplog):
    out = tmp_path / 'out'
    describe_dataset(out, raw, {})
    for name in ('sub-1_ses-a', 'sub-1_ses-b', 'sub-2_ses-a', 'sub-3_ses-a'):
        folder = name.replace('_', '/')
        add_volumes(out, name, 'T1w', dict.fromkeys(NAMES, 1000.0), folder=folder)
        write_json(raw / folder / 'anat' / f'{name}_T1w.json', {'MagneticFieldStrength': 3})
    people = ('participant_id\tage\tsex\tgroup\tCSF\trun\n'
              'sub-1\t30\tF\tcontrol\t2\tx\n2\tn/a\tM\tpatient\tn/a\tn/a\n'
              '2\t50\tM\tpatient\tn/a\tn/a\n')  # fmt: skip
    write_text(raw / 'participants.tsv', people)
    write_json(raw / 'participants.json', {'age': {'Description': 'Age.', 'Units': 'years'}})
    write_text(raw / 'sub-1' / 'sub-1_sessions.tsv', 'session_id\tage\tmood\nses-b\t31\tgood\n')
    write_json(raw / 'T1w.json', {'Manufacturer': 'Siemens', 'MagneticFieldStrength': 1.5})
    write_json(raw / 'sub-2' / 'ses-a' / 'anat' / 'sub-2_ses-a_T2w.json', {'Manufacturer': 'GE'})
    write_group_tables(out)
    rows = read(out / 'group_morph.tsv', dtype=str).set_index(['participant_id', 'session_id'])
    columns = ['age', 'sex', 'group', 'raw_CSF', 'raw_run', 'mood', 'manufacturer',
               'field_strength']  # fmt: skip
    expected = {
        # The age at the visit has the last word.
        ('sub-1', 'ses-a'): ['30', 'F', 'control', '2', 'x', '', 'Siemens', '3'],
        ('sub-1', 'ses-b'): ['31', 'F', 'control', '2', 'x', 'good', 'Siemens', '3'],
        ('sub-2', 'ses-a'): ['', 'M', 'patient', '', '', '', 'Siemens', '3'],
        ('sub-3', 'ses-a'): ['', '', '', '', '', '', 'Siemens', '3'],
    }
    assert {key: [*row] for key, row in rows[columns].fillna('').iterrows()} == expected
    # No sidecar names the model.
    assert 'scanner' not in rows
    assert 'participants.tsv: has several rows of sub-2; the first counts' in caplog.text
    described = dictionary(out / 'group_morph.tsv')
    assert [*described] == [*rows.reset_index().columns]
    assert described['age'] == {'Description': 'Age.', 'Units': 'years'}
    assert described['field_strength']['Units'] == 'T'
    long = read(out / 'group_morph_long.tsv', dtype=str)
    assert {*columns} <= {*long}
    assert {*long[long['session_id'] == 'ses-b']['age']} == {'31'}


def test_participants_with_a_row_per_session(raw):
    text = 'participant_id\tsession_id\tage\t\nsub-1\ta\t3\t\nsub-1\tses-b\t4\nsub-2\tn/a\t5\n'
    write_text(raw / 'participants.tsv', text)
    images = pd.DataFrame({
        'participant_id': ['sub-1', 'sub-2', 'sub-1'],
        'session_id': ['ses-b', '', 'ses-a'],
        'source': ['bids:raw:x', 'bids:raw:y', 'bids:raw:z'],
    })  # fmt: skip
    found, columns = read_covariates(raw, images)
    assert [*found['age']] == ['4', '5', '3']
    assert [*columns] == ['age']


def test_unusable_files_of_the_raw_dataset_are_named(tmp_path, raw, caplog):
    add_volumes(tmp_path, 'sub-1', 'T1w', dict.fromkeys(NAMES, 1000.0))
    (raw / 'participants.tsv').write_bytes('participant_id\tname\nsub-1\tZoë\n'.encode('latin-1'))
    write_text(raw / 'sub-1' / 'sub-1_sessions.tsv', 'age\n3\n')
    write_group_tables(tmp_path, bids_dir=raw)
    assert 'participants.tsv: line 2 is neither UTF-8 nor UTF-16' in caplog.text
    assert 'sub-1_sessions.tsv: has no column session_id' in caplog.text
    assert len(read(tmp_path / 'group_morph.tsv')) == 1
    write_group_tables(tmp_path, bids_dir=tmp_path / 'gone')
    assert f'{tmp_path / "gone"}: not found' in caplog.text


def test_sidecars_are_inherited(raw):
    anat = raw / 'sub-1' / 'anat'
    write_json(raw / 'T1w.json', {'a': 1, 'b': 1, 'c': 1})
    write_json(raw / 'acq-x_T1w.json', {'b': 2})
    write_json(raw / 'T2w.json', {'d': 1})
    write_json(raw / 'sub-1' / 'sub-1_T1w.json', {'c': 3})
    write_json(anat / 'sub-1_acq-x_run-2_T1w.json', {'e': 4})
    sidecars = Sidecars(raw)
    found = sidecars.metadata('sub-1/anat/sub-1_acq-x_run-1_T1w.nii.gz')
    assert found == {'a': 1, 'b': 2, 'c': 3}
    assert sidecars.metadata('sub-2/anat/sub-2_T1w.nii.gz') == {'a': 1, 'b': 1, 'c': 1}
    assert sidecars.metadata('sub-1/anat/sub-1_acq-x_run-2_T1w.nii.gz')['e'] == 4
    assert sidecars.metadata('scan.nii.gz') == {}


def test_brain_charts(tmp_path, raw):
    out = tmp_path / 'out'
    describe_dataset(out, raw, {})
    volumes = {label.index: 10.0 * i for i, label in enumerate(LABELS, 1)}
    add_volumes(out, 'sub-1_run-1', 'T1w', volumes, flip_dice=0.1)
    add_volumes(out, 'sub-1_run-2', 'T1w', volumes | {LESION: 5.0})
    add_volumes(out, 'sub-1', 'FLAIR', dict.fromkeys(volumes, 1.0))
    add_volumes(out, 'sub-2', 'T2w', volumes)
    add_volumes(out, 'sub-3', 'T1w', volumes, flip_dice=0.1)
    text = ('participant_id\tage\tsex\tdiagnosis\tsite\n'
            'sub-1\t240\tF\tHealthy Control\tA b\nsub-2\tn/a\tm\tMCI\tn/a\n')  # fmt: skip
    write_text(raw / 'participants.tsv', text)
    write_json(raw / 'participants.json', {'age': {'Units': 'months'}})
    path = out / 'group_brainchart.csv'
    write_group_tables(out)
    assert not path.exists()
    write_group_tables(out, charts=True)
    first, second = pd.read_csv(path).to_dict('records')
    assert [*dictionary(path)] == [*first]
    # Neither the run that failed nor another contrast of the session; lesions are white matter.
    assert (first['run'], first['contrast'], second['contrast']) == (2, 'T1w', 'T2w')
    assert first['Age'] == pytest.approx(20)
    assert first['age_days'] == pytest.approx(20 * 365.245 + 280)
    assert first['AgeTransformed'] == pytest.approx(np.log(20 * 365.245 + 280), abs=1e-5)
    assert [first[key] for key in ('sex', 'dx', 'study')] == ['Female', 'CN', 'My_Study_A_b']
    assert [second[key] for key in ('sex', 'dx', 'study')] == ['Male', 'MCI', 'My_Study']
    assert np.isnan(second['age_days'])
    assert first['fs_version'].startswith('synthseg-bids-')
    sums = {'GMV': (3, 42), 'WMV': (2, 41), 'Ventricles': VENTRICLES,
            'sGMV': (10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60)}  # fmt: skip
    for column, labels in sums.items():
        total = sum(volumes[label] for label in labels)
        assert second[column] == pytest.approx(total)
        assert first[column] == pytest.approx(total + 5 * (column == 'WMV'))
    assert second['TCV'] == pytest.approx(second['GMV'] + second['WMV'])


def test_what_brain_charts_lack_is_said(tmp_path, raw, caplog):
    add_volumes(tmp_path, 'sub-1', 'T1w', dict.fromkeys(NAMES, 1000.0))
    write_group_tables(tmp_path, bids_dir=raw, charts=True)
    for column in ('Age', 'sex', 'dx'):
        assert f'fill in the column {column}' in caplog.text
    assert pd.read_csv(tmp_path / 'group_brainchart.csv')['study'].item() == 'My_Study'
    caplog.clear()
    for path in tmp_path.rglob('*_qc.tsv'):
        write_qc_table(path, judge({'flip_dice': 0.1}, {}))
    write_group_tables(tmp_path, bids_dir=raw, charts=True)
    assert 'no image for the brain charts' in caplog.text


def test_dataset_with_covariates_is_valid(tmp_path, raw, validator):
    out = tmp_path / 'out'
    describe_dataset(out, raw, {})
    for i in range(6):
        add_image(out, f'sub-{i}', 'T1w', 1000 + 10 * i**2)
    rows = ''.join(f'sub-{i}\t{20 + i}\tF\t1\n' for i in range(6))
    write_text(raw / 'participants.tsv', f'participant_id\tage\tsex\tsession\n{rows}')
    write_group_tables(out, charts=True)
    answer = subprocess.run([validator, str(out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    layout = pytest.importorskip('bids').BIDSLayout(out, validate=False, is_derivative=True)
    (found,) = layout.get(subject='0', suffix='morph', extension='.tsv')
    assert 'session' not in found.entities


def test_residuals_need_five_values_that_vary(rng):
    predictor = rng.normal(size=8)
    values = np.stack([3 + 2 * predictor, rng.normal(size=8), np.full(8, np.nan)], axis=1)
    values[0, 1] = np.nan
    fitted = np.ones(8, bool)
    found = regression_residuals(values, predictor, fitted)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-12)
    assert [*np.isnan(found[:, 1])] == [True] + [False] * 7
    assert found[1:, 1] @ predictor[1:] == pytest.approx(0, abs=1e-12)
    assert np.isnan(found[:, 2]).all()
    assert np.isnan(regression_residuals(values, predictor, np.arange(8) < 4)).all()
    assert np.isnan(regression_residuals(values, np.ones(8), fitted)).all()
