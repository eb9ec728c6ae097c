"""The time between visits, and the change of volumes."""

from __future__ import annotations

import pytest

from synthseg_bids.bids.longitudinal import change_rows
from synthseg_bids.bids.visits import years_between
from synthseg_bids.measure.overlap import TOTAL_NAME

VISITS = ['ses-1', 'ses-2']


def write_sessions(raw, text):
    path = raw / 'sub-01' / 'sub-01_sessions.tsv'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_scans(raw, session, *times):
    path = raw / 'sub-01' / session / f'sub-01_{session}_scans.tsv'
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ''.join(f'anat/sub-01_{session}_run-{i}_T1w.nii.gz\t{t}\n' for i, t in enumerate(times))
    path.write_text(f'filename\tacq_time\n{rows}')


def test_times_of_sessions(tmp_path):
    write_sessions(
        tmp_path, 'session_id\tacq_time\nses-1\t2020-01-01T12:00:00\n2\t2021-07-01T12:00:00.5Z\n'
    )
    found = years_between(tmp_path, 'sub-01', VISITS)
    assert found == pytest.approx({'ses-1': 0, 'ses-2': 547 / 365.25}, abs=1e-6)


def test_times_of_scans_where_sessions_have_none(tmp_path):
    write_sessions(tmp_path, 'session_id\tacq_time\nses-1\t2020-01-01T12:00:00\nses-2\tn/a\n')
    write_scans(tmp_path, 'ses-1', 'n/a', '2010-01-02T00:00:00', '2010-01-01T00:00:00')
    write_scans(tmp_path, 'ses-2', '2011-01-01T00:00:00')
    found = years_between(tmp_path, 'sub-01', VISITS)
    assert found == pytest.approx({'ses-1': 0, 'ses-2': 365 / 365.25})


def test_unknown_and_equal_times_are_none(tmp_path):
    assert years_between(tmp_path, 'sub-01', VISITS) is None
    write_scans(tmp_path, 'ses-1', '2010-01-01T00:00:00')
    assert years_between(tmp_path, 'sub-01', VISITS) is None
    write_scans(tmp_path, 'ses-2', '2010-01-01T00:00:00')
    assert years_between(tmp_path, 'sub-01', VISITS) is None


def test_change_is_a_slope_in_percent_of_the_mean():
    visits = [{'Left-Hippocampus': v, TOTAL_NAME: 1500.0} for v in (1010.0, 1000.0, 990.0)]
    first, total = change_rows([0, 0.5, 1], visits)
    assert (first['index'], first['change']) == (17, pytest.approx(-2.0))
    assert (total['change'], total['n_visits']) == (0, 3)
    assert 'index' not in total
