"""Outputs are compared with what the run that wrote them has noted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from app import GOOD, contents, options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthseg_bids.app.main import main
from synthseg_bids.bids.save import damaged_outputs
from synthseg_bids.files import read_table

STEM = 'sub-01/anat/sub-01_seg-synthseg_desc-T1w'


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished.out, tmp_path / 'out', symlinks=True))


def reason(capsys, raw, out, model, *more: object) -> str:
    """Tell why a run would segment the T1w scan again; empty if it would not."""
    assert main(options(raw, out, model, *more, '--dry-run')) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if GOOD[0] in line]
    return lines[0] if lines[0].startswith('segment') else ''


def test_whole_outputs_are_believed(out, raw, tiny_model, capsys, references):
    assert damaged_outputs(out) == damaged_outputs(out, verify=True) == {}


@pytest.mark.parametrize('kind', ['dseg.nii.gz', 'morph.tsv', 'qc.tsv', 'probseg.nii.gz'])
def test_any_length_is_noticed(out, kind):
    path = out / f'{STEM}_{kind}'
    content = path.read_bytes()

    @given(length=st.integers(0, len(content) - 1))
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def cut(length):
        path.write_bytes(content[:length])
        assert list(damaged_outputs(out)) == [f'{STEM}_{kind}']

    cut()
    path.unlink()
    assert 'cannot be read' in damaged_outputs(out)[f'{STEM}_{kind}']


def test_any_byte_is_noticed_by_verify(out):
    path = out / f'{STEM}_dseg.nii.gz'
    content = path.read_bytes()

    @given(place=st.integers(0, len(content) - 1), change=st.integers(1, 255))
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def turn(place, change):
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        assert damaged_outputs(out) == {}
        assert list(damaged_outputs(out, verify=True)) == [f'{STEM}_dseg.nii.gz']

    turn()


def test_the_group_level_names_damaged_tables_and_leaves_them_out(out, caplog):
    table = out / f'{STEM}_morph.tsv'
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(''.join(lines[:3]) + lines[3][:12])
    assert main(['/nowhere', str(out), 'group']) == 1
    assert f'{table} has ' in caplog.text
    assert 'run the participant level again' in caplog.text
    sources = [row['source'] for row in read_table(out / 'group_morph.tsv')]
    assert len(sources) == 2
    assert not any(source.endswith('sub-01_T1w.nii.gz') for source in sources)


def test_damaged_outputs_are_made_anew(finished, raw, out, references, tiny_model, capsys):
    (out / f'{STEM}_dseg.nii.gz').write_bytes(b'')
    before = contents(out)
    arguments = ['-d', f'manual={references}', '--posteriors', 'native', '--verify']
    said = reason(capsys, raw, out, tiny_model, *arguments)
    assert 'has 0 bytes' in said or 'segment' in said
    assert contents(out) == before
