"""What a run finds, and what it says without segmenting: --dry-run, filters, database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from app import GOOD, options

from synthseg_bids.app.main import main


def test_dry_run_writes_nothing(raw, tiny_model, tmp_path, capsys):
    code = main(options(raw, tmp_path / 'out', tiny_model, '--dry-run'))
    header, *lines, last = capsys.readouterr().out.splitlines()
    assert code == 0
    assert header.split() == ['ACTION', 'IMAGE', 'REASON', 'OUTPUTS']
    assert last == '4 to segment, 2 skipped, 1 failed'
    rows = {line.split()[1]: line for line in lines}
    assert len(rows) == 7
    assert '_desc-T1w_dseg.nii.gz' in rows[GOOD[0]]
    assert rows['sub-02/ses-a/anat/sub-02_ses-a_angio.nii.gz'].startswith('skip ')
    assert rows['sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz'].startswith('fail ')
    # No column moves.
    assert len({line.index('sub-') for line in lines}) == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_raw(raw, tmp_path_factory) -> Path:
    """Return a copy of the dataset that a test may change."""
    folder = tmp_path_factory.mktemp('own') / 'raw'
    return Path(shutil.copytree(raw, folder, symlinks=True))


def test_dry_run_lists_litter_if_it_is_to_say_more(own_raw, tiny_model, tmp_path, capsys):
    for name in ('.DS_Store', '._sub-01_T1w.nii.gz', 'sub-01_T1w.json~'):
        (own_raw / 'sub-01/anat' / name).touch()
    assert main(options(own_raw, tmp_path / 'out', tiny_model, '--dry-run')) == 0
    quiet = capsys.readouterr().out
    assert 'left behind' not in quiet
    assert quiet.endswith('4 to segment, 2 skipped, 1 failed\n')
    assert main(options(own_raw, tmp_path / 'out', tiny_model, '--dry-run', '-v')) == 0
    assert capsys.readouterr().out.count('left behind by a file system or an editor') == 3


def test_database_is_kept_for_the_next_run(own_raw, tiny_model, tmp_path, capsys):
    more = ['--dry-run', '--bids-database-dir', tmp_path / 'index']
    assert main(options(own_raw, tmp_path / 'out', tiny_model, *more)) == 0
    first = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ['index']
    assert main(options(own_raw, tmp_path / 'out', tiny_model, *more)) == 0
    assert capsys.readouterr().out == first
    image = own_raw / GOOD[0]
    image.rename(image.with_name(image.name.replace('T1w', 'FLAIR')))
    assert main(options(own_raw, tmp_path / 'out', tiny_model, *more)) == 0
    assert capsys.readouterr().out.count('use --bids-database-wipe') == 2
    assert main(options(own_raw, tmp_path / 'out', tiny_model, *more, '--bids-database-wipe')) == 0
    assert capsys.readouterr().out.endswith('4 to segment, 2 skipped, 1 failed\n')


def test_filter_file_that_cannot_be_decoded_is_one_line(own_raw, tiny_model, tmp_path, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    (own_raw / 'filter.json').write_bytes(b'{"t1w": {"acquisition": "\xeb"}}')
    more = ['--bids-filter-file', own_raw / 'filter.json']
    assert main(options(own_raw, out, tiny_model, *more)) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if 'error' in text]
    assert 'filter.json' in line
    assert 'save the file as UTF-8' in line
