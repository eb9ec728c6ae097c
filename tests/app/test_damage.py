"""Outputs are compared with what the run that wrote them has noted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from app import GOOD, contents, options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthseg_bids.app.group_outputs import write_tables
from synthseg_bids.app.main import main
from synthseg_bids.bids.damage import damaged_outputs, markers
from synthseg_bids.bids.records import TAIL
from synthseg_bids.bids.save import figure_files
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


@pytest.mark.parametrize(
    'kind', ['dseg.nii.gz', 'morph.tsv', 'qc.tsv', 'probseg.nii.gz', 'qc.json']
)
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


@pytest.mark.parametrize(
    'kind', ['dseg.nii.gz', 'probseg.nii.gz', 'qc.tsv', 'qc.json', 'dseg.json']
)
def test_any_byte_is_noticed_by_verify(out, kind):
    path = out / f'{STEM}_{kind}'
    content = path.read_bytes()

    @given(place=st.integers(0, len(content) - 1), change=st.integers(1, 255))
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def turn(place, change):
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        assert next(iter(damaged_outputs(out, verify=True))) == f'{STEM}_{kind}'
        # Without it, those of the end.
        assert bool(damaged_outputs(out)) is (place >= len(content) - TAIL or kind == 'dseg.json')

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


@pytest.mark.parametrize('kind', ['dseg.nii.gz', 'dseg.json', 'qc.json', 'figure'])
def test_damaged_outputs_are_made_anew(finished, raw, out, references, tiny_model, capsys, kind):
    path = out / (figure_files(STEM)['scan'] if kind == 'figure' else f'{STEM}_{kind}')
    before = of_images(out)
    path.write_bytes(path.read_bytes()[:-20])
    arguments = ['-d', f'fs={references}', '--posteriors', 'native']
    assert path.name in reason(capsys, raw, out, tiny_model, *arguments)
    assert main(options(raw, out, tiny_model, *arguments, '--use-plugin', linear(out))) == 1
    assert of_images(out) == before
    assert damaged_outputs(out, verify=True) == {}
    assert reason(capsys, raw, out, tiny_model, *arguments) == ''


def of_images(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(out).items() if name.startswith('sub-')}


def linear(out: Path) -> Path:
    path = out.parent / 'linear.toml'
    path.write_text('plugin = "Linear"\n')
    return path


def test_what_earlier_versions_wrote_is_believed_if_it_can_be_read(out):
    for path in markers(out):
        sidecar = json.loads(path.read_text())
        del sidecar['Outputs'], sidecar['SidecarSHA256']
        path.write_text(json.dumps(sidecar))
    assert damaged_outputs(out) == {}
    for kind in ('dseg.nii.gz', 'morph.tsv', 'qc.json', 'probseg.nii.gz'):
        path = out / f'{STEM}_{kind}'
        content = path.read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 2):
            path.write_bytes(content[:length])
            assert list(damaged_outputs(out)) == [f'{STEM}_{kind}'], (kind, length)
        path.write_bytes(content)
    for kind in ('morph.tsv', 'dseg.nii.gz'):
        (out / f'{STEM}_{kind}').unlink()
        assert f'{STEM}_{kind}' in damaged_outputs(out)


HOLD = """
import sys
from pathlib import Path
from synthseg_bids.bids.locks import hold_participants

with hold_participants(Path(sys.argv[1]), ['01']):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_what_another_run_is_writing_is_not_damaged(out, caplog):
    (out / f'{STEM}_dseg.json').unlink()
    table = out / 'sub-01/anat/sub-01_seg-synthseg_desc-T2w_morph.tsv'
    table.write_bytes(table.read_bytes()[:100])
    command = [sys.executable, '-c', HOLD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b'held\n'
        assert main(['/nowhere', str(out), 'group']) == 0
        other.stdin.close()
    assert 'sub-01: another run is writing its outputs' in caplog.text
    assert not any('sub-01_T2w' in row['source'] for row in read_table(out / 'group_morph.tsv'))
    assert main(['/nowhere', str(out), 'group']) == 1


def test_posteriors_may_be_deleted_to_save_space(out):
    for path in out.rglob('*_probseg.*'):
        path.unlink()
    assert damaged_outputs(out) == {}


def test_an_image_that_is_done_has_outputs(out, caplog):
    for path in (out / 'sub-01/anat').glob('*_desc-T1w_*'):
        path.unlink()
    assert main(['/nowhere', str(out), 'group']) == 1
    assert (
        'sub-01 (bids:raw:sub-01/anat/sub-01_T1w.nii.gz, synthseg) holds no outputs' in caplog.text
    )
    shutil.rmtree(out / 'sub-01')
    caplog.clear()
    assert main(['/nowhere', str(out), 'group']) == 0
    assert 'is gone, but' in caplog.text


@given(data=st.data())
@settings(max_examples=15, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_damaged_tables_of_agreement_are_written_again(out, data):
    path = out / 'sub-01/anat/sub-01_seg-synthseg_agreement.tsv'
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert write_tables(out, [])
    assert path.read_bytes() == content


def test_reports_leave_out_what_is_damaged(out, caplog):
    table = out / f'{STEM}_morph.tsv'
    table.write_bytes(table.read_bytes()[:150])
    main(['/nowhere', str(out), 'participant', '--reports-only'])
    assert f'{table}: has 150 bytes' in caplog.text


def test_tables_that_keep_the_books_are_begun_again_where_damaged(out, raw, tiny_model, capsys):
    for name in ('logs/checksums.tsv', 'group_status.tsv'):
        path = out / name
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    arguments = ['--use-plugin', linear(out), '--participant-label', '02']
    assert main(options(raw, out, tiny_model, *arguments)) in (0, 1)
    rows = read_table(out / 'group_status.tsv')
    assert all(len(row) == len(rows[0]) for row in rows)
