"""Tables of agreement, from label maps in an output dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.bids import agreement
from synthseg_bids.bids.agreement import write_agreement
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.files import read_table, write_json
from synthseg_bids.labels import LESION, LESION_NAME, segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME

STRUCTURES = (2, 3, 10, 11, 12, 16, 17, 41, 42, 49)


def add(out: Path, name: str, shift: int = 0, contrast: str = 'T1w', suffix: str = '') -> Path:
    """Save a label map of blocks, and its sidecar, under the name of an image."""
    labels = np.zeros((24, 20, 16), np.uint8)
    for i, label in enumerate(STRUCTURES):
        labels[2 * i + 2 : 2 * i + 4, 3 : 10 + i % 3, 4 : 8 + i % 4] = label
    labels[2:4, 3:10, 8] = 2 if shift else 0
    entities = dict(part.split('-') for part in name.split('_'))
    folder = (
        out / '/'.join(f'{k}-{v}' for k, v in entities.items() if k in ('sub', 'ses')) / 'anat'
    )
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f'{name}_seg-synthseg{suffix}_desc-{contrast}_dseg'
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(labels, affine), f'{stem}.nii.gz')
    source = f'bids:raw:{folder.relative_to(out).as_posix()}/{name}_{contrast}.nii.gz'
    write_json(Path(f'{stem}.json'), {'Sources': [source]})
    return Path(f'{stem}.nii.gz')


def pairs(path: Path) -> list[tuple[str, str, str]]:
    rows = read_table(path)
    return [
        (row['comparison'], *(row[key].rpartition('/')[2].partition('.')[0]
                              for key in ('source_1', 'source_2')))
        for row in rows if row['name'] == MEAN_NAME
    ]  # fmt: skip


def test_every_two_images_of_a_session(tmp_path):
    for contrast, shift in (('T1w', 0), ('T2w', 9)):
        add(tmp_path, 'sub-1', shift, contrast)
    add(tmp_path, 'sub-1_run-2', 0, 'T1w')
    add(tmp_path, 'sub-2')
    (table,) = write_agreement(tmp_path)
    assert table == tmp_path / 'sub-1/anat/sub-1_seg-synthseg_agreement.tsv'
    assert pairs(table) == [
        ('contrasts', 'sub-1_T1w', 'sub-1_T2w'),
        ('repeats', 'sub-1_T1w', 'sub-1_run-2_T1w'),
        ('contrasts', 'sub-1_T2w', 'sub-1_run-2_T1w'),
    ]
    rows = read_table(table)
    assert len(rows) == 3 * (len(segmentation_labels()) - 1 + 2)
    white = next(r for r in rows if r['index'] == '2' and r['comparison'] == 'contrasts')
    assert (white['volume_1_mm3'], white['volume_2_mm3']) == ('448', '560')
    assert float(white['volume_difference']) == pytest.approx(200 * 112 / 1008, abs=1e-3)
    assert 0.85 < float(white['dice']) < 1
    mean = next(row for row in rows if row['name'] == MEAN_NAME)
    # The larger block pulls the whole head a little.
    assert float(mean['shift']) == pytest.approx(9, abs=0.2)
    assert float(mean['dice']) > 0.9
    assert rows[-1]['name'] == 'Total-Intracranial'
    sidecar = json.loads(table.with_suffix('.json').read_text())
    assert {*rows[0]} <= {*sidecar}
    assert len(sidecar['Sources']) == 3


def test_visits_of_images_of_the_same_name(tmp_path):
    for session in 'abc':
        add(tmp_path, f'sub-1_ses-{session}', 0, 'T1w')
        add(tmp_path, f'sub-1_ses-{session}_acq-x', 0, 'T1w')
    (tmp_path / 'sub-1/ses-b/anat/sub-1_ses-b_acq-x_seg-synthseg_desc-T1w_dseg.json').unlink()
    visits, *sessions = sorted(write_agreement(tmp_path))
    assert sorted(pairs(visits)) == sorted([
        ('visits', 'sub-1_ses-a_T1w', 'sub-1_ses-b_T1w'),
        ('visits', 'sub-1_ses-b_T1w', 'sub-1_ses-c_T1w'),
        ('visits', 'sub-1_ses-a_acq-x_T1w', 'sub-1_ses-c_acq-x_T1w'),
    ])  # fmt: skip
    assert [path.parent.parent.name for path in sessions] == ['ses-a', 'ses-c']


def test_only_what_changed_is_done_again(tmp_path):
    for session in 'ab':
        add(tmp_path, f'sub-1_ses-{session}')
        add(tmp_path, f'sub-1_ses-{session}', 4, 'T2w')
    assert len(write_agreement(tmp_path)) == 3
    assert write_agreement(tmp_path) == []
    add(tmp_path, 'sub-1_ses-b', 6, 'T2w')
    names = [path.name for path in write_agreement(tmp_path, ['1'])]
    assert sorted(names) == [
        'sub-1_seg-synthseg_agreement.tsv',
        'sub-1_ses-b_seg-synthseg_agreement.tsv',
    ]
    assert write_agreement(tmp_path, ['sub-1']) == []
    table = tmp_path / 'sub-1/ses-b/anat/sub-1_ses-b_seg-synthseg_agreement.tsv'
    table.unlink()
    assert write_agreement(tmp_path) == [table]
    for path in table.parent.glob('*T2w_dseg*'):
        path.unlink()
    written = write_agreement(tmp_path)
    # One image is left in the session: no table, and only one contrast has two visits.
    assert not table.exists()
    assert not table.with_suffix('.json').exists()
    assert pairs(written[0]) == [('visits', 'sub-1_ses-a_T1w', 'sub-1_ses-b_T1w')]


def test_the_1mm_grid_serves_where_there_is_no_other(tmp_path):
    native = add(tmp_path, 'sub-1')
    add(tmp_path, 'sub-1', suffix='_res-1mm')
    add(tmp_path, 'sub-1', 4, 'T2w', suffix='_res-1mm')
    (table,) = write_agreement(tmp_path)
    maps = json.loads(table.with_suffix('.json').read_text())['LabelMaps']
    assert sorted(Path(name).name for name in maps) == [
        native.name,
        'sub-1_seg-synthseg_res-1mm_desc-T2w_dseg.nii.gz',
    ]


def test_what_cannot_be_compared_is_left_out_with_a_warning(tmp_path, caplog):
    add(tmp_path, 'sub-1')
    add(tmp_path, 'sub-1', 4, 'T2w')
    damaged = add(tmp_path, 'sub-1', 0, 'FLAIR')
    damaged.write_bytes(damaged.read_bytes()[:200])
    empty = add(tmp_path, 'sub-1', 0, 'PDw')
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), empty)
    (table,) = write_agreement(tmp_path)
    assert pairs(table) == [('contrasts', 'sub-1_T1w', 'sub-1_T2w')]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 5
    assert any('truncated' in line for line in warnings)
    assert any('0 structures in common' in line for line in warnings)


def test_lesions_of_both_images_have_a_row_and_count_once(tmp_path):
    for contrast, size in (('T1w', 1), ('T2w', 2)):
        path = add(tmp_path, 'sub-1', 0, contrast)
        labels = np.asarray(nib.load(path).dataobj).copy()
        labels[2:4, 4 : 4 + size, 5] = LESION
        nib.save(nib.Nifti1Image(labels, nib.load(path).affine), path)
    (table,) = write_agreement(tmp_path)
    rows = {row['name']: row for row in read_table(table)}
    lesions, white, total = (
        rows[name] for name in (LESION_NAME, 'Left-Cerebral-White-Matter', 'Total-Intracranial')
    )
    assert (lesions['volume_1_mm3'], lesions['volume_2_mm3']) == ('16', '32')
    assert float(lesions['dice']) == pytest.approx(2 / 3, abs=1e-3)
    assert (white['volume_difference'], total['volume_difference']) == ('0', '0')
    write_group_tables(tmp_path)
    dice, difference = read_table(tmp_path / 'group_agreement.tsv')
    assert (dice[LESION_NAME], difference[LESION_NAME]) == (
        lesions['dice'], lesions['volume_difference']
    )  # fmt: skip


HELD = """
import sys
from pathlib import Path
from synthseg_bids.bids.locks import held_by_others

print(*held_by_others(Path(sys.argv[1]), ['1', '2']))
"""


def test_a_participant_is_held_while_its_tables_are_written(tmp_path, monkeypatch):
    # Another run took what was being written for what a killed process had left, and removed it.
    for name in ('sub-1', 'sub-2'):
        add(tmp_path, name)
        add(tmp_path, name, 4, 'T2w')
    write_table, seen = agreement.write_table, []

    def write(path, columns, rows):
        command = [sys.executable, '-c', HELD, str(tmp_path)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        seen.append(answer.stdout.split())
        write_table(path, columns, rows)

    monkeypatch.setattr(agreement, 'write_table', write)
    assert len(write_agreement(tmp_path)) == 2
    assert seen == [['1'], ['2']]


def test_damaged_tables_are_written_again_once(tmp_path, caplog):
    add(tmp_path, 'sub-1')
    add(tmp_path, 'sub-1', 4, 'T2w')
    (table,) = write_agreement(tmp_path)
    content = table.read_bytes()
    table.write_bytes(content.replace(b'contrasts', b'contrAsts', 1))
    assert write_agreement(tmp_path) == []
    assert write_agreement(tmp_path, verify=True) == [table]
    assert table.read_bytes() == content
    assert 'its checksum differs); written again' in caplog.text
    table.write_bytes(content[:-5])
    assert write_agreement(tmp_path) == [table]
    assert table.read_bytes() == content
