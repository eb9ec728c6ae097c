"""The group level, reports and methods text, from the output dataset alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from app import contents
from report_tree import write_tree

from synthseg_bids.app.main import main
from synthseg_bids.files import read_table, write_json, write_text


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of the outputs without what the group level makes."""
    copy = tmp_path / 'synthseg-bids'
    shutil.copytree(finished.out, copy)
    for path in [*copy.glob('group_*'), *copy.glob('*.html'), *copy.rglob('*_agreement.*')]:
        if 'status' not in path.name:
            path.unlink()
    return copy


def test_group_level_needs_the_output_alone(finished, out, capsys):
    assert main(['/nowhere', str(out), 'group']) == 0
    assert contents(out) == contents(finished.out)
    assert {path.name for path in out.glob('*.html')} == {
        'sub-01.html',
        'sub-02.html',
        'group.html',
    }
    assert capsys.readouterr().out == ''


def test_group_level_joins_the_raw_dataset(out, tmp_path):
    raw = tmp_path / 'raw'
    write_text(raw / 'participants.tsv', 'participant_id\tage\nsub-02\t33\n')
    write_json(raw / 'sub-02' / 'sub-02_FLAIR.json', {'ManufacturersModelName': 'Prisma'})
    assert main([str(raw), str(out), 'group']) == 0
    rows = {row['participant_id']: row for row in read_table(out / 'group_morph.tsv')}
    assert [(rows[f'sub-{i}']['age'], rows[f'sub-{i}']['scanner']) for i in ('01', '02')] == [
        ('n/a', 'n/a'), ('33', 'Prisma')
    ]  # fmt: skip


def test_charts_are_written_on_request(tmp_path):
    out = write_tree(tmp_path)
    charts = out / 'group_brainchart.csv'
    assert main([str(tmp_path / 'raw'), str(out), 'group']) == 0
    assert not charts.exists()
    assert main([str(tmp_path / 'raw'), str(out), 'group', '--charts']) == 0
    header, *rows = charts.read_text().splitlines()
    assert header.startswith('participant,Age,age_days,AgeTransformed,sex,study,fs_version')
    assert [row.split(',')[0] for row in rows] == ['sub-01', 'sub-02', 'sub-03']
    assert {row.split(',')[5] for row in rows} == {'Test_heads'}


def test_reports_only(out):
    before = contents(out)
    assert main(['/nowhere', str(out), 'participant', '--reports-only',
                 '--participant-label', 'sub-02']) == 0  # fmt: skip
    assert {path.name for path in out.glob('*.html')} == {'sub-02.html', 'group.html'}
    assert contents(out) == before


def test_reports_of_a_run(out, capsys):
    arguments = ['/nowhere', str(out), 'participant', '--reports-only', '--run-uuid']
    assert main([*arguments, 'no-such-run']) == 2
    said = capsys.readouterr().err
    (run,) = (path.parent.name for path in out.glob('logs/*/config.toml'))
    assert f'--run-uuid no-such-run: no such run in {out / "logs"}; there are: {run}' in said
    assert main([*arguments, run]) == 0
    # The one that is damaged left a crash.
    assert f'1 crash in the run {run}' in (out / 'sub-02.html').read_text(encoding='utf-8')
    assert f'0 crashes in the run {run}' in (out / 'sub-01.html').read_text(encoding='utf-8')


def test_report_that_cannot_be_written_is_an_error(out, caplog):
    (out / 'sub-01.html').mkdir()
    assert main(['/nowhere', str(out), 'group']) == 1
    (line,) = [record.message for record in caplog.records if record.levelname == 'ERROR']
    assert line.startswith('report of sub-01: not written')
    # The others do not suffer.
    assert (out / 'sub-02.html').is_file()
    assert (out / 'group_morph.tsv').is_file()


@pytest.mark.parametrize('level', [['group'], ['participant', '--reports-only']])
def test_no_outputs_of_ours(tmp_path, level, capsys):
    assert main(['/nowhere', str(tmp_path / 'none'), *level]) == 2
    assert 'holds no segmentations; run the participant level first' in capsys.readouterr().err
    (tmp_path / 'dataset_description.json').write_text('{"Name": "fMRIPrep"}')
    assert main(['/nowhere', str(tmp_path), *level]) == 2
    assert 'holds another dataset' in capsys.readouterr().err


def test_methods_text_alone(raw, tiny_model, tmp_path, capsys):
    arguments = [str(raw), str(tmp_path / 'out'), 'participant', '--model-dir',
                 str(tiny_model.parent), '--model', 'tiny', '--boilerplate-only']  # fmt: skip
    assert main(arguments) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / 'out/logs/CITATION.md'
    text = ' '.join(path.read_text().split())
    # The one that is damaged is found out only when it is read.
    assert '4 images of 2 participants' in text
    assert 'resampled linearly to 4 mm' in text
    assert 'by the model `tiny`' in text
    assert {p.name for p in (tmp_path / 'out').rglob('*') if p.is_file()} == {
        'CITATION.md', 'CITATION.bib'
    }  # fmt: skip
