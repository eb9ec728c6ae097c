"""Everything that is written, but for the label maps themselves."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.bids.checksums import Checksums
from synthseg_bids.bids.damage import damaged_outputs
from synthseg_bids.bids.errors import QueryError
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.metadata import describe_dataset, label_map_sidecar, posteriors_sidecar
from synthseg_bids.bids.save import output_files, save_image_outputs, why_outdated
from synthseg_bids.bids.status import write_status
from synthseg_bids.bids.tables import TOTAL_NAME, morph_rows, write_dice_table, write_morph_table
from synthseg_bids.files import (
    copy_file,
    read_table,
    remove_leftovers,
    sha256,
    write_table,
    write_text,
)
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME

PROVENANCE = {
    'SoftwareVersion': '1',
    'ModelSHA256': 'm',
    'FlipAveraging': True,
    'InputSHA256': 'i',
}
STEM = 'sub-1/ses-a/anat/sub-1_ses-a_acq-x_run-1_seg-synthseg_desc-T1w'
SOURCE = 'bids:raw:sub-1/ses-a/anat/sub-1_ses-a_acq-x_run-1_T1w.nii.gz'


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / 'results'
    folder.mkdir()
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, folder / 'dseg.nii.gz')
    volumes = {17: (10, 20.0), 53: (5, 10.0)}
    soft = [1.5] * len(segmentation_labels())
    write_morph_table(folder / 'morph.tsv', morph_rows(volumes, 30.0, soft))
    rows = [
        {'reference': name, 'index': 17, 'name': 'Left-Hippocampus', 'dice': 0.5}
        for name in ('fs', 'other')
    ]
    rows.append({'reference': 'fs', 'name': MEAN_NAME, 'dice': float('nan')})
    write_dice_table(folder / 'dice.tsv', rows)
    return {kind: folder / f'{kind}.{end}' for kind, end in
            (('dseg', 'nii.gz'), ('morph', 'tsv'), ('dice', 'tsv'))}  # fmt: skip


def save(out: Path, results: dict[str, Path], kinds: str, provenance=PROVENANCE) -> list[str]:
    chosen = {kind: results[kind] for kind in kinds.split()}
    references = {'bids:fs:x': 'r', 'bids:other:x': 'o'} if 'dice' in chosen else {}
    return save_image_outputs(out, STEM, chosen, SOURCE, references, ['bids:fs:x'], provenance)


def test_parcels_go_where_their_own_image_is_made_anew_without_them(tmp_path, results):
    results |= {'parcels': results['dseg']}
    with_parcels = {**PROVENANCE, 'ParcelModelSHA256': 'p'}
    save(tmp_path, results, 'dseg morph parcels', with_parcels)
    path = tmp_path / output_files(STEM, ['parcels'])[0]
    kinds, wanted = ['dseg', 'morph', 'parcels'], {**PROVENANCE, 'ParcelModelSHA256': 'p'}
    assert why_outdated(tmp_path, STEM, kinds, {}, wanted) == ''
    assert why_outdated(tmp_path, STEM, ['dseg', 'morph'], {}, PROVENANCE) == ''
    wanted['ParcelModelSHA256'] = 'q'
    assert why_outdated(tmp_path, STEM, kinds, {}, wanted) == 'model of parcels changed'
    # Another method has no parcels, and leaves ours.
    other = STEM.replace('seg-synthseg', 'seg-samseg')
    save_image_outputs(tmp_path, other, {'dseg': results['dseg']}, SOURCE, {}, [], {})
    assert path.is_file()
    save(tmp_path, results, 'dseg morph')
    assert not path.exists()
    assert why_outdated(tmp_path, STEM, kinds, {}, wanted) == 'no parcels yet'


def test_files_appear_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / 'a.txt', 'old')
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / 'missing', tmp_path / 'a.txt')
    assert (tmp_path / 'a.txt').read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_table_round_trip(tmp_path):
    rows = [{'a': 1.23456789, 'b': None}, {'a': float('nan'), 'b': 'x\ty\nz'}, {'a': 1234567.8}]
    write_table(tmp_path / 't.tsv', ['a', 'b'], rows)
    assert read_table(tmp_path / 't.tsv') == [
        {'a': '1.23457', 'b': 'n/a'},
        {'a': 'n/a', 'b': 'x y z'},
        {'a': '1234567.800', 'b': 'n/a'},
    ]
    assert read_table(tmp_path / 'none.tsv') == []


def test_description_of_the_dataset(tmp_path):
    raw, out, reference = (tmp_path / name for name in ('raw', 'raw/derivatives/out', 'ref'))
    raw.mkdir()
    write_text(raw / 'dataset_description.json', '{"Name": "Raw", "License": "CC0"}')
    describe_dataset(out, raw, {'fs': reference})
    describe_dataset(out, raw, {})
    content = json.loads((out / 'dataset_description.json').read_text())
    assert content['GeneratedBy'][0]['Name'] == 'synthseg-bids'
    # Links of an earlier run stay: its sidecars use them.
    assert content['DatasetLinks'] == {'raw': '../..', 'fs': '../../../ref'}
    assert (content['DatasetType'], content['License']) == ('derivative', 'CC0')
    rows = read_table(out / 'seg-synthseg_dseg.tsv')
    assert list(rows[0]) == ['index', 'name', 'abbreviation', 'color', 'mapping']
    assert [int(row['index']) for row in rows] == [
        label.index for label in segmentation_labels(lesions=True)
    ]


@pytest.mark.parametrize('text', ['{broken', '[]', ''])
def test_broken_raw_description_does_not_stop_us(tmp_path, text):
    write_text(tmp_path / 'raw/dataset_description.json', text)
    describe_dataset(tmp_path / 'out', tmp_path / 'raw', {})
    assert (tmp_path / 'out/dataset_description.json').exists()


def test_output_of_another_tool_is_not_touched(tmp_path):
    write_text(tmp_path / 'out/dataset_description.json', '{"Name": "fMRIPrep"}')
    with pytest.raises(QueryError, match='another dataset'):
        describe_dataset(tmp_path / 'out', tmp_path, {})


def test_sidecars_name_source_and_labels():
    assert label_map_sidecar(SOURCE, PROVENANCE)['SpatialReference'] == SOURCE
    assert len(posteriors_sidecar(SOURCE, {})['LabelMap']) == len(segmentation_labels())
    with_lesions = posteriors_sidecar(SOURCE, {'LesionLabel': True})['LabelMap']
    assert with_lesions == [label.abbreviation for label in segmentation_labels(lesions=True)]


def test_morph_table(results):
    rows = read_table(results['morph'])
    assert list(rows[0]) == ['index', 'name', 'volume_mm3', 'n_voxels', 'soft_volume_mm3']
    assert len(rows) == len(segmentation_labels())
    assert '0' not in {row['index'] for row in rows}
    hippocampus = next(row for row in rows if row['index'] == '17')
    assert (hippocampus['volume_mm3'], hippocampus['n_voxels']) == ('20', '10')
    assert rows[-1] == {
        'index': 'n/a',
        'name': TOTAL_NAME,
        'volume_mm3': '30',
        'n_voxels': '15',
        'soft_volume_mm3': str(1.5 * (len(rows) - 1)).removesuffix('.0'),
    }


def test_saved_files(tmp_path, results):
    out = tmp_path / 'out'
    written = save(out, results, 'dseg morph dice')
    expected = output_files(STEM, ['dseg', 'morph', 'dice'])
    assert sorted(written) == sorted(str(out / name) for name in expected)
    assert all(Path(path).exists() for path in written)
    assert written[-1].endswith('_dseg.json')
    assert json.loads((out / f'{STEM}_dice.json').read_text())['Sources'] == [SOURCE, 'bids:fs:x']


def test_up_to_date(tmp_path, results):
    out = tmp_path / 'out'
    save(out, results, 'dseg morph dice')

    def reason(kinds='dseg morph', references=None, **changes):
        expected = {**PROVENANCE, **changes}
        return why_outdated(out, STEM, kinds.split(), references or {}, expected)

    assert reason() == ''
    # A reference that could not be used is not tried again, unless it has changed.
    both = {'bids:fs:x': 'r', 'bids:other:x': 'o'}
    assert reason('dseg morph dice', both) == ''
    assert reason('dseg morph dice', {**both, 'bids:other:x': 'p'}) == 'bids:other:x changed'
    assert reason('dseg morph dice', {'bids:fs:y': 'r'}) == 'not compared with bids:fs:y'
    assert reason('dseg morph probseg').endswith('_probseg.nii.gz is missing')
    assert reason('dseg dseg1mm').endswith('_res-1mm_desc-T1w_dseg.nii.gz is missing')
    assert [reason(**{field: 'new'}) for field in PROVENANCE] == [
        'version changed', 'model changed', '--fast changed', 'image changed'
    ]  # fmt: skip
    (out / f'{STEM}_dice.tsv').unlink()
    assert reason('dseg morph dice', both).endswith('_dice.tsv is missing')
    assert reason('dseg morph dice', {'bids:other:x': 'o'}) == ''
    (out / f'{STEM}_dseg.json').unlink()
    assert reason() == 'no outputs yet'


def test_label_maps_on_both_grids(tmp_path, results):
    results |= dict.fromkeys(('dseg1mm', 'probseg1mm'), results['dseg'])
    save(tmp_path, results, 'dseg dseg1mm morph')
    written = save(tmp_path, results, 'dseg1mm morph probseg1mm')
    # The one on the grid of the image is still right.
    assert (tmp_path / f'{STEM}_dseg.json').exists()
    assert written[-1] == str(tmp_path / STEM.replace('_desc', '_res-1mm_desc')) + '_dseg.json'
    for kind in ('dseg', 'probseg'):
        name = f'{STEM.replace("_desc", "_res-1mm_desc")}_{kind}.json'
        assert json.loads((tmp_path / name).read_text())['Resolution']
    save(tmp_path, results, 'dseg1mm morph', {**PROVENANCE, 'ModelSHA256': 'n'})
    assert not (tmp_path / f'{STEM}_dseg.json').exists()


def test_all_sidecars_note_what_is_there(tmp_path, results):
    """Also where label maps on two grids are of two runs, and a table is of the second."""
    results |= dict.fromkeys(('dseg1mm', 'qc'), results['morph'])
    save(tmp_path, results, 'dseg morph qc')
    other = {**results, 'morph': results['dice']}
    save(tmp_path, other, 'dseg1mm morph qc')
    assert damaged_outputs(tmp_path, verify=True) == {}
    broken = tmp_path / f'{STEM}_dseg.json'
    broken.write_text('{')
    assert list(damaged_outputs(tmp_path)) == [f'{STEM}_dseg.json']
    assert why_outdated(tmp_path, STEM, ['dseg1mm', 'morph'], {}, PROVENANCE).endswith(
        '_dseg.json is damaged'
    )
    save(tmp_path, other, 'dseg1mm morph qc')
    assert not broken.exists()
    assert not (tmp_path / f'{STEM}_dseg.nii.gz').exists()
    assert damaged_outputs(tmp_path, verify=True) == {}


def test_results_of_another_model_do_not_stay(tmp_path, results):
    out = tmp_path / 'out'
    save(out, results, 'dseg morph dice')
    save(out, results, 'dseg morph')
    assert (out / f'{STEM}_dice.tsv').exists()
    save(out, results, 'dseg morph', {**PROVENANCE, 'ModelSHA256': 'n'})
    assert not (out / f'{STEM}_dice.tsv').exists()


def test_group_tables_hold_what_the_tree_holds(tmp_path, results):
    save(tmp_path, results, 'dseg morph dice')
    write_group_tables(tmp_path)
    (morph,) = read_table(tmp_path / 'group_morph.tsv')
    assert (morph['participant_id'], morph['session_id']) == ('sub-1', 'ses-a')
    assert (morph['source'], morph['contrast'], morph['run_id']) == (SOURCE, 'T1w', '1')
    assert (morph['Left-Hippocampus'], morph[TOTAL_NAME]) == ('20', '30')
    dice = read_table(tmp_path / 'group_dice.tsv')
    assert [(row['reference'], row['Left-Hippocampus']) for row in dice] == [
        ('fs', '0.5'),
        ('other', '0.5'),
    ]
    assert {*json.loads((tmp_path / 'group_dice.json').read_text())} == {*dice[0]}
    assert read_table(tmp_path / 'descriptions.tsv')[0]['desc_id'] == 'desc-T1w'
    shutil.rmtree(tmp_path / 'sub-1')
    write_group_tables(tmp_path)
    assert not (tmp_path / 'group_morph.tsv').exists()


def record(relative: str, **known: Any) -> ImageRecord:
    return ImageRecord(Path(relative), relative, **known)


def test_status_keeps_images_of_other_runs(tmp_path):
    first, second = 'sub-1/anat/sub-1_T1w.nii', 'sub-2/ses-b/anat/sub-2_ses-b_T1w.nii'
    bad = record(first).settle('failed', 'bad')
    write_status(tmp_path, [bad, record(second, status='done', provenance={'Seconds': 1.26})])
    write_status(tmp_path, [record(first, status='done', provenance={'Device': 'cpu'})])
    write_status(tmp_path, [record(first).settle('current', 'up to date')])
    one, two = read_table(tmp_path / 'group_status.tsv')
    assert (one['status'], one['reason'], one['device']) == ('done', 'n/a', 'cpu')
    assert (two['participant_id'], two['session_id'], two['seconds']) == ('sub-2', 'ses-b', '1.3')


def test_tree_is_valid_bids(tmp_path, results, validator):
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    raw.mkdir()
    describe_dataset(out, raw, {'fs': tmp_path})
    save(out, results, 'dseg morph dice')
    write_group_tables(out)
    write_status(out, [record('sub-1/anat/sub-1_T1w.nii', status='done')])
    write_text(out / 'logs/run/sub-1/crash.txt', 'x')
    answer = subprocess.run([validator, str(out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_checksums_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    image = tmp_path / 'image.nii'
    image.write_bytes(b'one')
    checksums = Checksums(tmp_path)
    first = checksums.of('bids:raw:image.nii', image)
    assert first == sha256(image)
    checksums.save()
    monkeypatch.setattr('synthseg_bids.bids.checksums.sha256', lambda _: 'read again')
    assert Checksums(tmp_path).of('bids:raw:image.nii', image) == first
    image.write_bytes(b'two')
    os.utime(image, ns=(0, 0))
    assert Checksums(tmp_path).of('bids:raw:image.nii', image) == 'read again'
    assert checksums.of('bids:raw:gone.nii', tmp_path / 'gone.nii') == ''


def test_participants_belong_to_one_process(tmp_path):
    code = (
        'import sys; from pathlib import Path\n'
        'from synthseg_bids.bids.locks import hold_participants\n'
        f'with hold_participants(Path({str(tmp_path)!r}), sys.argv[1:]):\n'
        '    print("held", flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-c', code]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen([*command, '1', '2'], **pipes) as first:
        assert first.stdout.readline() == b'held\n'
        with subprocess.Popen([*command, '3'], **pipes) as third:
            assert third.communicate(timeout=60)[0] == b'held\n'
        with subprocess.Popen([*command, '4', '2'], **pipes) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(2)
            # The kernel frees the locks of a process that dies.
            first.kill()
            assert second.communicate(timeout=60)[0] == b'held\n'


def test_names_that_are_not_utf8_can_be_written_about(tmp_path):
    write_text(tmp_path / 'a', os.fsdecode(b'\xe9t\xe9'))
    assert (tmp_path / 'a').read_bytes() == b'\\udce9t\\udce9'


def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / 'table.tsv'
    write_text(path, 'old')
    # No more than a page fits into any file.
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(OSError, match='too large') as caught:
            write_text(path, 'new' * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert caught.value.filename == str(path)
    assert path.read_text() == 'old'
    assert [found.name for found in tmp_path.iterdir()] == ['table.tsv']
    with pytest.raises(FileNotFoundError) as caught:
        copy_file(tmp_path / 'none', path)
    assert caught.value.filename == str(tmp_path / 'none')


def test_leftovers_of_killed_processes_go(tmp_path):
    for name in ('.123-sub-1_dseg.nii.gz', 'sub-1_dseg.nii.gz', '.hidden-file'):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / 'none')
    assert {path.name for path in tmp_path.iterdir()} == {'sub-1_dseg.nii.gz', '.hidden-file'}
