"""Many images are handed to Nipype in chunks; what brings one down does not touch the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from app import options, write_description, write_image

from synthseg_bids.app.execute import split
from synthseg_bids.app.main import main
from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.files import read_table

NAMES = [f'sub-{number}/anat/sub-{number}_T1w.nii.gz' for number in (1, 2, 3)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_description(tmp_path / 'raw', 'Toy')
    for name in NAMES:
        write_image(tmp_path / 'raw' / name)
    return tmp_path / 'raw'


def break_nipype(work: Path) -> list[Path]:
    """Leave remains of an earlier run that Nipype wants to remove, and cannot."""
    folders = []
    for stem in ('1', '2'):
        folder = work / f'sub-2/sub-2_T1w/segment/_0x{stem}.json'
        folder.mkdir(parents=True)
        folders.append(folder)
    (folder.parent / 'result_segment.pklz').touch()
    return folders


def statuses(out: Path) -> list[str]:
    return [row['status'] for row in read_table(out / 'group_status.tsv')]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')
def test_chunk_that_breaks_down_costs_its_own_images(
    dataset, tiny_model, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr('synthseg_bids.app.execute.CHUNK', 1)
    monkeypatch.setattr('synthseg_bids.app.execute.workflow_name', lambda config: 'wf')
    folders = break_nipype(tmp_path / 'work' / 'wf')
    arguments = options(dataset, tmp_path / 'out', tiny_model)
    assert main(arguments) == 1
    assert statuses(tmp_path / 'out') == ['done', 'failed', 'done']
    failed = read_table(tmp_path / 'out/group_status.tsv')[1]
    assert failed['reason'].startswith('not finished: ')
    assert '_0x' in failed['reason']
    assert '_0x' in capsys.readouterr().err.splitlines()[-1]
    # Reports of the others are there, and the same command does the rest.
    assert {path.name for path in (tmp_path / 'out').glob('*.html')} > {'sub-1.html', 'sub-3.html'}
    for folder in folders:
        folder.rmdir()
    assert main(arguments) == 0
    assert statuses(tmp_path / 'out') == ['done'] * 3
    assert capsys.readouterr().out == '1 done, 2 skipped, 0 failed\n'


def test_participants_are_not_divided():
    images = [ImageRecord(Path(), '', {'sub': participant}) for participant in 'aabbbcd']
    sizes = [[image.participant for image in chunk] for chunk in split(images, 2)]
    assert sizes == [['a', 'a'], ['b', 'b', 'b'], ['c', 'd']]
