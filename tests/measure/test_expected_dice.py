"""The Dice that confidence lets expect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_qc import AFFINE, GOOD_HEADER, SHIPPED, brain, measured, scan, sure

from synthseg_bids.bids.tables import write_qc_table
from synthseg_bids.files import read_table
from synthseg_bids.inference.memory_estimate import describe_model
from synthseg_bids.measure import expected_dice as module
from synthseg_bids.measure.expected_dice import FITTED, expected_dice, interpolate
from synthseg_bids.measure.qc import assess
from synthseg_bids.measure.qc_limits import MIN_EXPECTED_DICE, QC_GROUPS
from synthseg_bids.measure.qc_rules import PASS, REVIEW

NODES = {'confidence': [0.5, 0.7, 0.9], 'dice': [0.2, 0.6, 0.9], 'error': [0.1, 0.08, 0.02]}
NAMES = [f'expected_dice_{group}' for group in QC_GROUPS]


@pytest.fixture
def fitted(monkeypatch):
    """The same nodes for every group, for the network that the limits are of."""
    content = {'origin': {'model_sha256': SHIPPED}, 'groups': dict.fromkeys(QC_GROUPS, NODES)}
    monkeypatch.setattr(module, 'FITTED', content)


@pytest.mark.parametrize(
    ('confidence', 'dice', 'error'),
    [(0.5, 0.2, 0.1), (0.6, 0.4, 0.09), (0.85, 0.825, 0.035), (0.1, 0.2, 0.1), (1, 0.9, 0.02)],
)
def test_between_nodes_and_outside_of_them(confidence, dice, error):
    assert interpolate(NODES, confidence) == pytest.approx((dice, error))


def test_groups_of_unknown_confidence_and_other_networks(fitted):
    values = {'confidence_cortex': 0.6, 'confidence_brainstem': None}
    assert expected_dice(values, SHIPPED) == {'expected_dice_cortex': (0.4, 0.09)}
    assert expected_dice(values, 'another') == {}


def test_the_fit_is_that_of_the_shipped_model():
    found = FITTED['origin']['model_sha256']
    assert found == describe_model('default').sha256, (
        'run benchmarks/expected_dice.py, then docs/build.py qc'
    )
    assert {*FITTED['groups']} == {*QC_GROUPS}
    for nodes in FITTED['groups'].values():
        confidence, dice, error = (np.array(nodes[key]) for key in NODES)
        assert len(confidence) == len(dice) == len(error) > 5
        assert (np.diff(confidence) > 0).all()
        assert (np.diff(dice) >= 0).all()  # equal where they are rounded
        # Degraded scans are far from clear ones.
        assert 0 <= dice[0] < dice[-1] - 0.2
        assert 0.8 < dice[-1] <= 1
        assert ((error > 0) & (error < 0.25)).all()


def test_values_errors_and_verdict(fitted, rng, tmp_path):
    labels = brain()
    seen = scan(labels, rng), labels, AFFINE, GOOD_HEADER

    def judged(confidence: float, sha256: str = SHIPPED) -> list[dict]:
        report = replace(sure(confidence, sha256), flip_dice=sure(0.9).flip_dice)
        return assess(*seen, report)

    # Confidence itself is above its limits in both.
    good, poor = judged(0.9), judged(0.83)
    assert (good[-1]['value'], good[-1]['reason']) == (PASS, '')
    for name in NAMES:
        row = measured(good)[name]
        assert (row['value'], row['error'], row['flag']) == (0.9, 0.02, PASS)
        assert measured(poor)[name]['value'] == pytest.approx(0.795)
    assert poor[-1]['value'] == PASS
    module.FITTED['groups']['ventricles'] = {**NODES, 'dice': [0.1, 0.3, 0.7]}
    poor = judged(0.83)
    assert 0.55 < measured(poor)['expected_dice_ventricles']['value'] < MIN_EXPECTED_DICE
    assert (poor[-1]['value'], poor[-1]['reason']) == (
        REVIEW,
        'expected Dice of the ventricles is 0.56',
    )
    other = judged(0.83, 'another')
    assert other[-1]['value'] == PASS
    write_qc_table(tmp_path / 'qc.tsv', other)
    rows = {row['measure']: row for row in read_table(tmp_path / 'qc.tsv')}
    assert all({rows[n][c] for c in ('value', 'error', 'flag')} == {'n/a'} for n in NAMES)
    write_qc_table(tmp_path / 'qc.tsv', good)
    rows = {row['measure']: row for row in read_table(tmp_path / 'qc.tsv')}
    assert float(rows['expected_dice_cortex']['error']) == 0.02
    assert rows['confidence_cortex']['error'] == 'n/a'
