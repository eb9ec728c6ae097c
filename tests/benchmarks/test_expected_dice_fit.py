"""The benchmark that fits expected Dice: regression, degraded scans, tables, all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app import save_tiny_model
from degraded import DEGRADED
from expected_dice import CONDITIONS, main, measured_before, rows_of
from expected_dice_fit import below, calibration, fit, held_out, nodes
from plain_head import write_head
from synthetic import CLEAR

from synthseg_bids.files import read_table, sha256
from synthseg_bids.measure.qc_limits import QC_GROUPS
from synthseg_bids.models.card import save_model
from synthseg_bids.models.registry import load_model

DOCS = Path(__file__).parents[2] / 'docs'


def rows(dice_of, heads=4, n=30, kind='midl2020', **offsets: float) -> list[dict[str, str]]:
    """Return scans of several heads, whose Dice is a function of confidence, plus an offset."""
    return [
        {
            'kind': kind,
            'scan': f'sub-{head}_run-{i}',
            'group': 'cortex',
            'confidence': f'{x:.4f}',
            'dice': f'{dice_of(x) + offsets.get(f"sub{head}", 0):.4f}',
        }
        for head in range(heads)
        for i, x in enumerate(np.linspace(0.4, 0.9, n) + head / 1000)
    ]


def test_violations_are_pooled():
    confidence, dice = nodes(np.array([0.1, 0.2, 0.4, 0.5]), np.array([0.1, 0.4, 0.2, 0.5]))
    np.testing.assert_allclose(confidence, [0.1, 0.3, 0.5])
    np.testing.assert_allclose(dice, [0.1, 0.3, 0.5])
    # Of one confidence there is one Dice, and it counts as often as it was found.
    confidence, dice = nodes(np.array([0.2, 0.2, 0.4]), np.array([0.1, 0.7, 0.1]))
    np.testing.assert_allclose(confidence, [0.8 / 3])
    np.testing.assert_allclose(dice, [0.3])


def test_a_known_function_is_found():
    found = fit(rows(lambda x: x**2))
    confidence, dice, error = (np.array(found[key]) for key in ('confidence', 'dice', 'error'))
    np.testing.assert_allclose(dice, confidence**2, atol=1e-3)
    assert (np.diff(dice) > 0).all()
    assert (error < 5e-3).all()


def test_the_error_is_that_of_heads_left_out():
    scans = rows(lambda x: x, sub3=0.08)
    confidence, dice, residuals = held_out(scans)
    assert len(confidence) == len(dice) == len(residuals) == 120
    assert np.median(residuals[dice > confidence + 0.05]) == pytest.approx(0.08, abs=0.01)
    assert min(fit(scans)['error']) > 0.03
    assert max(fit(scans)['error']) < 0.08


def test_calibration_of_real_scans():
    scans = rows(lambda x: x)
    real = rows(lambda x: x + 0.05, 1, kind='real')
    (found,) = calibration([*scans, *real], {'cortex': fit(scans)})
    assert found['scans'] == 30
    assert found['bias'] == pytest.approx(0.05, abs=2e-3)
    assert found['error'] == pytest.approx(0.05, abs=2e-3)
    assert found['correlation'] > 0.999
    assert found['generated_scans'] == 120
    assert abs(found['generated_bias']) < 2e-3
    (found,) = calibration([*scans, *real[:1]], {'cortex': fit(scans)})
    assert np.isnan(found['correlation'])


def test_poor_scans_are_counted():
    groups = {'cortex': fit(rows(lambda x: x))}
    real = rows(lambda x: x - 0.1, 1, n=6, kind='real')
    # Confidences of 0.4, 0.5, ... 0.9: two are expected below 0.55, three are.
    assert below(real, groups, 0.55) == {'dice': 3, 'expected': 2, 'both': 2}


@pytest.mark.parametrize('kind', DEGRADED)
def test_labels_stay_on_what_is_degraded(kind, rng):
    labels = rng.integers(0, 5, (40, 40, 40)).astype(np.int16)
    labels = labels.repeat(2, 0)
    image = labels / 4
    before = image.copy()
    changed, truth = DEGRADED[kind](image, labels, np.diag([1.0, 1, 1, 1]), 3)
    np.testing.assert_array_equal(image, before)
    assert changed.shape == truth.shape == labels.shape
    assert not np.array_equal(changed, image)
    if kind == 'upside down':
        np.testing.assert_array_equal(changed, truth / 4)
        assert not np.array_equal(truth, labels)
    else:
        np.testing.assert_array_equal(truth, labels)
        assert 0.05 < np.corrcoef(changed.ravel(), image.ravel())[0, 1] < 0.95
    again, _ = DEGRADED[kind](image, labels, np.diag([1.0, 1, 1, 1]), 3)
    np.testing.assert_array_equal(again, changed)


def test_a_group_is_the_mean_of_what_is_known():
    everything = dict.fromkeys((i for members in QC_GROUPS.values() for i in members), 0.8)
    dice = {**everything, 3: np.nan, 42: 0.5, 16: np.nan}
    found = {row['group']: row for row in rows_of('abc', 'real', 'x', everything, dice)}
    assert float(found['cortex']['dice']) == 0.5
    assert float(found['ventricles']['dice']) == 0.8
    assert 'brainstem' not in found


def test_what_make_accuracy_has_measured_is_used():
    run = {row['fact']: row['value'] for row in read_table(DOCS / 'accuracy/generated_run.tsv')}
    assert measured_before(DOCS / 'accuracy', 'another') == []
    found = measured_before(DOCS / 'accuracy', run['SHA-256'])
    assert {row['kind'] for row in found} == {*CONDITIONS}
    assert {row['group'] for row in found} == {*QC_GROUPS}
    first = next(row for row in found if row['group'] == 'brainstem')
    (truth,) = (
        row['dice']
        for row in read_table(DOCS / 'accuracy/generated_scans.tsv')
        if (row['scan'], row['index']) == (first['scan'], '16')
    )
    assert float(first['dice']) == pytest.approx(float(truth), abs=1e-4)


@pytest.mark.slow
def test_from_label_maps_to_the_fit(tmp_path, capfd):
    # A network of random weights that finds the hippocampus in some scans, and nothing else.
    network, card = load_model(save_tiny_model(tmp_path / 'coarse.safetensors', seed=3))
    model = tmp_path / 'fine.safetensors'
    save_model(model, network, replace(card, spacing_mm=1.0))
    for number in (13, 14):
        write_head(tmp_path / 'data' / 'label_maps' / f'sub-{number}_dseg.nii.gz')
    head = tmp_path / 'data/label_maps/sub-13_dseg.nii.gz'
    anat = tmp_path / 'data/adults/sub-aomic/anat'
    reference = tmp_path / 'data/adults/derivatives/reference/sub-aomic/anat'
    for path in (
        anat / 'sub-aomic_T1w.nii.gz',
        reference / 'sub-aomic_desc-aparcaseg_dseg.nii.gz',
    ):
        path.parent.mkdir(parents=True)
        nib.save(nib.load(head), path)
    arguments = ['--data', tmp_path / 'data', '--model', model, '--scans', 1, '--threads', 1]
    arguments += ['--docs', tmp_path / 'docs', '--out', tmp_path / 'fit.json']
    assert main([str(argument) for argument in arguments]) == 0
    table = tmp_path / 'docs/qc/expected_dice.tsv'
    found = json.loads((tmp_path / 'fit.json').read_text())
    assert found['origin']['model_sha256'] == sha256(model)
    measured = capfd.readouterr().err
    assert all(measured.count(f'{kind} sub-') == 2 for kind in (*CONDITIONS, CLEAR, *DEGRADED))
    assert 'real sub-aomic T1w' in measured
    assert {row['model'] for row in read_table(table)} == {sha256(model)[:12]}
    assert table.with_suffix('.png').is_file()
    both = {
        group: {row['scan'].partition('_')[0] for row in read_table(table)
                if (row['group'], row['kind'] == 'real') == (group, False)}
        for group in QC_GROUPS
    }  # fmt: skip
    assert {*found['groups']} == {group for group, heads in both.items() if len(heads) > 1}
    # What is in the table is not measured again.
    assert main([str(argument) for argument in arguments]) == 0
    again = capfd.readouterr().err
    assert not any(f'{row["kind"]} {row["scan"]}\n' in again for row in read_table(table))
