"""Tables over all images: quality, agreement, outliers and reliability."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_session_agreement import add

from synthseg_bids.bids.agreement import write_agreement
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.group_stats import find_outliers, reliability
from synthseg_bids.bids.metadata import describe_dataset
from synthseg_bids.bids.tables import TOTAL_NAME, morph_rows, write_morph_table, write_qc_table
from synthseg_bids.files import read_table, write_json
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.qc import judge
from synthseg_bids.measure.qc_limits import MODEL_LIMITS
from synthseg_bids.measure.qc_measures import MEASURES
from synthseg_bids.measure.stats import intraclass_correlations

HIPPOCAMPUS = 'Left-Hippocampus'


def add_image(
    out: Path,
    name: str,
    contrast: str,
    volume: float,
    snr: float = 10.0,
    method: str = 'synthseg',
) -> None:
    entities = dict(part.split('-') for part in name.split('_'))
    folder = (
        out / '/'.join(f'{k}-{v}' for k, v in entities.items() if k in ('sub', 'ses')) / 'anat'
    )
    stem = f'{folder}/{name}_seg-{method}_desc-{contrast}'
    volumes = {label.index: (1, volume) for label in segmentation_labels() if label.index != 24}
    write_morph_table(Path(f'{stem}_morph.tsv'), morph_rows(volumes, 30 * volume))
    values = {'snr': snr, 'white_matter': 'bright', 'flip_dice': 0.95, 'n_missing_structures': 1}
    write_qc_table(Path(f'{stem}_qc.tsv'), judge(values, {'n_missing_structures': 'a, b'}))
    source = {'Sources': [f'bids:raw:{name}_{contrast}.nii.gz']}
    for kind in ('morph', 'qc'):
        write_json(Path(f'{stem}_{kind}.json'), source)


def test_quality_of_all_images(tmp_path):
    add_image(tmp_path, 'sub-1_ses-a_acq-x', 'T1w', 1000)
    write_group_tables(tmp_path)
    (row,) = read_table(tmp_path / 'group_qc.tsv')
    assert (row['participant_id'], row['session_id'], row['acq_id']) == ('sub-1', 'ses-a', 'x')
    assert (row['snr'], row['white_matter'], row['cnr']) == ('10', 'bright', 'n/a')
    assert (row['verdict'], row['reasons']) == ('review', 'not found: a, b')
    dictionary = json.loads((tmp_path / 'group_qc.json').read_text())
    assert {*dictionary} == {*row}
    assert dictionary['total_intracranial_ml']['Units'] == 'ml'
    limit = MODEL_LIMITS['limits']['flip_dice']['fail']
    assert f'fail below {limit:g}' in dictionary['flip_dice']['Description']
    assert {measure.name for measure in MEASURES} <= {*row}


def test_outliers_of_each_contrast(tmp_path, rng):
    for i in range(12):
        size = 1000 + rng.normal(0, 20)
        add_image(tmp_path, f'sub-{i:02d}', 'T1w', size)
        # Another contrast has other volumes and another noise: no reason for surprise.
        add_image(tmp_path, f'sub-{i:02d}', 'T2w', 5 * size, snr=50)
    add_image(tmp_path, 'sub-20', 'T1w', 2000)
    add_image(tmp_path, 'sub-21', 'T1w', 1000, snr=1)
    add_image(tmp_path, 'sub-22', 'T1w', 0)
    add_image(tmp_path, 'sub-23', 'FLAIR', 1)
    write_group_tables(tmp_path)
    rows = read_table(tmp_path / 'group_outliers.tsv')
    assert {row['participant_id'] for row in rows} == {'sub-20', 'sub-21', 'sub-22'}
    assert {row['contrast'] for row in rows} == {'T1w'}
    large = next(r for r in rows if r['participant_id'] == 'sub-20')
    assert (large['table'], large['n_images']) == ('morph', '15')
    assert float(large['robust_z']) > 3.5
    assert float(large['typical']) == pytest.approx(30_000 if large['statistic'] == TOTAL_NAME
                                                    else 1000, rel=0.05)  # fmt: skip
    noisy = next(r for r in rows if r['participant_id'] == 'sub-21')
    assert (noisy['statistic'], noisy['table'], noisy['value']) == ('snr', 'qc', '1')
    nothing = [r for r in rows if r['participant_id'] == 'sub-22']
    assert all(float(row['robust_z']) < -3.5 for row in nothing)
    assert HIPPOCAMPUS in {row['statistic'] for row in nothing}
    assert {*json.loads((tmp_path / 'group_outliers.json').read_text())} == {*rows[0]}


def test_four_images_have_no_outliers(tmp_path):
    for i in range(4):
        add_image(tmp_path, f'sub-{i}', 'T1w', 10 ** (i + 1))
    write_group_tables(tmp_path)
    assert not (tmp_path / 'group_outliers.tsv').exists()


def test_reliability_across_contrasts_and_visits(tmp_path, rng):
    sizes = 1000 * np.stack([rng.uniform(0.8, 1.2, 8)] * 3, axis=1)
    sizes += rng.normal(0, 20, sizes.shape) + np.array([0, 100, 0])
    for i, (first, other_contrast, second) in enumerate(sizes):
        add_image(tmp_path, f'sub-{i}_ses-a', 'T1w', first)
        add_image(tmp_path, f'sub-{i}_ses-a', 'T2w', other_contrast)
        # Only the first image of a contrast counts; a participant without the other, not at all.
        add_image(tmp_path, f'sub-{i}_ses-a_run-2', 'T1w', 1)
        add_image(tmp_path, f'sub-{i}_ses-b', 'T1w', second)
    add_image(tmp_path, 'sub-9_ses-a', 'T2w', 3)
    write_group_tables(tmp_path)
    table = read_table(tmp_path / 'group_reliability.tsv')
    rows = {row['comparison']: row for row in table if row['name'] == HIPPOCAMPUS}
    written = np.array(
        [[float(f'{s:.6g}') if s < 1000 else round(s, 3) for s in r] for r in sizes]
    )
    for comparison, two in (('contrasts', written[:, :2]), ('visits', written[:, ::2])):
        row = rows[comparison]
        expected = intraclass_correlations(two)
        assert row['n_pairs'] == '8'
        assert [float(row[key]) for key in ('icc_2_1', 'icc_3_1')] == pytest.approx(expected, 1e-4)
        ratios = abs(two[:, 0] - two[:, 1]) / 2**0.5 / two.mean(axis=1)
        assert float(row['cv']) == pytest.approx(100 * (ratios**2).mean() ** 0.5, rel=1e-4)
    assert (rows['contrasts']['contrast_1'], rows['contrasts']['contrast_2']) == ('T1w', 'T2w')
    assert float(rows['contrasts']['mean_difference']) == pytest.approx(10, abs=2)
    assert float(rows['visits']['mean_difference']) == pytest.approx(0, abs=2)
    assert {*json.loads((tmp_path / 'group_reliability.json').read_text())} == {*table[0]}
    # Nothing was segmented as CSF, everywhere.
    empty = next(row for row in table if row['name'] == 'CSF')
    assert (empty['cv'], empty['mean_difference'], empty['icc_2_1']) == ('n/a', 'n/a', 'n/a')


def test_agreement_of_all_pairs(tmp_path):
    add(tmp_path, 'sub-1_ses-a')
    add(tmp_path, 'sub-1_ses-a', 4, 'T2w')
    add(tmp_path, 'sub-1_ses-b')
    write_agreement(tmp_path)
    write_group_tables(tmp_path)
    rows = read_table(tmp_path / 'group_agreement.tsv')
    found = [(r['session_id'], r['comparison'], r['contrast_2'], r['statistic']) for r in rows]
    assert found == [
        ('ses-a', 'contrasts', 'T2w', 'dice'),
        ('ses-a', 'contrasts', 'T2w', 'volume_difference'),
        ('n/a', 'visits', 'T1w', 'dice'),
        ('n/a', 'visits', 'T1w', 'volume_difference'),
    ]
    assert (rows[2][MEAN_NAME], rows[2][HIPPOCAMPUS], rows[3][HIPPOCAMPUS]) == ('1', '1', '0')
    assert (rows[3][TOTAL_NAME], rows[2][TOTAL_NAME]) == ('0', 'n/a')
    assert float(rows[0]['shift']) == pytest.approx(4, abs=0.2)
    assert {*json.loads((tmp_path / 'group_agreement.json').read_text())} == {*rows[0]}


def test_dataset_is_valid(tmp_path, validator):
    out = tmp_path / 'out'
    (tmp_path / 'raw').mkdir()
    describe_dataset(out, tmp_path / 'raw', {})
    for i in range(6):
        for session in 'ab':
            add_image(out, f'sub-{i}_ses-{session}', 'T1w', 9000 if i == 5 else 1000)
            # The spatial reference is for whoever writes the label maps.
            path = add(out, f'sub-{i}_ses-{session}')
            sidecar = json.loads(Path(str(path).replace('.nii.gz', '.json')).read_text())
            sidecar['SpatialReference'] = sidecar['Sources'][0]
            write_json(Path(str(path).replace('.nii.gz', '.json')), sidecar)
    assert write_agreement(out)
    write_group_tables(out)
    for kind in ('morph', 'qc', 'agreement', 'outliers', 'reliability'):
        assert (out / f'group_{kind}.tsv').exists(), kind
    answer = subprocess.run([validator, str(out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    layout = pytest.importorskip('bids').BIDSLayout(out, validate=False, is_derivative=True)
    assert len(layout.get(subject='0', suffix='agreement', extension='.tsv')) == 1
    (found,) = layout.get(subject='0', session='a', suffix='qc', extension='.tsv')
    assert found.entities['desc'] == 'T1w'


def test_methods_are_told_apart(tmp_path, rng):
    for i in range(12):
        size = 1000 + rng.normal(0, 20)
        for contrast, factor in (('T1w', 1), ('T2w', 1.1)):
            add_image(tmp_path, f'sub-{i:02d}', contrast, factor * size)
            # Another method has other volumes, and sees other differences between contrasts.
            add_image(tmp_path, f'sub-{i:02d}', contrast, 5 * factor**2 * size, method='samseg')
    write_group_tables(tmp_path)
    assert read_table(tmp_path / 'group_outliers.tsv') == []
    rows = read_table(tmp_path / 'group_morph.tsv')
    assert len({(row['source'], row['method']) for row in rows}) == len(rows) == 48
    found = {
        row['method']: float(row['mean_difference'])
        for row in read_table(tmp_path / 'group_reliability.tsv')
        if row['name'] == HIPPOCAMPUS
    }
    assert found['synthseg'] == pytest.approx(200 * 0.1 / 2.1, abs=0.01)
    assert found['samseg'] == pytest.approx(200 * 0.21 / 2.21, abs=0.01)


def test_reliability_of_ten_thousand_images(rng):
    names = [label.name for label in segmentation_labels()]
    rows = [
        {
            'participant_id': f'sub-{i // 4}', 'session_id': f'ses-{i // 2 % 2}',
            'contrast': ('T1w', 'T2w')[i % 2], 'source': f'bids:raw:{i:05d}',
            'method': 'synthseg',
            **{name: f'{value:.6g}' for name, value in zip(names, values, strict=True)},
        }
        for i, values in enumerate(rng.lognormal(7, 0.1, (10_000, len(names))))
    ]  # fmt: skip
    images = pd.DataFrame(rows)
    find_outliers(images, names, 'morph', logarithmic=True)
    found = reliability(images, names)
    assert {row['n_pairs'] for row in found} == {5000, 2500}
