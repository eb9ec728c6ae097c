"""The command ``synthseg segment``, from a folder or a list to a folder."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.cli import segment_folder
from synthseg_bids.cli.main import main
from synthseg_bids.cli.segment_scan import segment
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.models.card import save_model
from synthseg_bids.models.registry import load_model

AFFINE = np.diag([4.0, 4, 4, 1])


@pytest.fixture
def scans(tmp_path, rng) -> Path:
    """Three formats, a pair, one in a folder below, a damaged one, and what is no scan."""
    folder = tmp_path / 'scans'
    (folder / 'deep').mkdir(parents=True)
    for name in ('a.nii.gz', 'b.nii', 'deep/a.nii.gz'):
        nib.save(nib.Nifti1Image(rng.random((12, 14, 13)).astype('f4'), AFFINE), folder / name)
    nib.save(nib.MGHImage(rng.random((12, 14, 13)).astype('f4'), AFFINE), folder / 'c.mgz')
    nib.save(nib.Nifti1Pair(rng.random((12, 14, 13)).astype('f4'), AFFINE), folder / 'd.img')
    whole = (folder / 'a.nii.gz').read_bytes()
    (folder / 'damaged.nii.gz').write_bytes(whole[: len(whole) // 2])
    (folder / '._a.nii.gz').write_bytes(b'litter')
    (folder / 'notes.md').write_text('no scan')
    return folder


@pytest.fixture
def run(tiny_model):
    def segment(*arguments: object) -> int:
        options = ('--device', 'cpu', '--model', tiny_model, '--threads', 1)
        return main(['segment', *map(str, (*arguments, *options))])

    return segment


def rows_of(path: Path, delimiter: str = '\t') -> dict[str, dict[str, str]]:
    with path.open(newline='') as stream:
        rows = list(csv.DictReader(stream, delimiter=delimiter))
    assert len(rows) == len({row['scan'] for row in rows})
    return {row['scan']: row for row in rows}


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}


def ages(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in files(folder)}


def test_a_folder(tmp_path, scans, run, caplog):
    caplog.set_level(logging.INFO)
    out, table = tmp_path / 'out', tmp_path / 'all.tsv'
    assert run(scans, out, '--volumes', table) == 1
    assert files(out) == {
        f'{name}_synthseg{end}' for name in 'abcd' for end in ('.nii.gz', '.json')
    }
    # The damaged one is named at the end, and has a row without volumes.
    assert caplog.messages[-1].startswith(f'failed: {scans / "damaged.nii.gz"}: ')
    assert '4 of 5 scans are segmented, 1 failed' in caplog.messages
    assert any(line.startswith('5/5 failed: ') for line in caplog.messages)
    assert sum('segmented in' in message for message in caplog.messages) == 4
    rows = rows_of(table)
    assert [*rows] == ['a.nii.gz', 'b.nii', 'c.mgz', 'd.img', 'damaged.nii.gz']
    assert {*rows.pop('damaged.nii.gz').values()} == {'damaged.nii.gz', 'n/a'}
    names = [label.name for label in segmentation_labels()[1:]]
    for name, row in rows.items():
        assert [*row] == ['scan', *names, 'Total-Intracranial']
        image = nib.load(out / f'{name.partition(".")[0]}_synthseg.nii.gz')
        labels = np.asanyarray(image.dataobj)
        np.testing.assert_allclose(image.affine, nib.load(scans / name).affine)
        for label in segmentation_labels()[1:]:
            expected = 64 * (labels == label.index).sum()
            assert float(row[label.name]) == pytest.approx(expected, rel=1e-5)
        expected = 64 * (labels > 0).sum()
        assert float(row['Total-Intracranial']) == pytest.approx(expected, rel=1e-5)
    assert run(scans / 'b.nii', tmp_path / 'alone.nii.gz') == 0
    alone, among = (
        nib.load(p).get_fdata() for p in (tmp_path / 'alone.nii.gz', out / 'b_synthseg.nii.gz')
    )
    np.testing.assert_array_equal(alone, among)


def test_only_what_is_missing_or_would_change_is_made(tmp_path, scans, run, rng):
    (scans / 'damaged.nii.gz').unlink()
    out, table = tmp_path / 'out', tmp_path / 'all.csv'

    def redone(*options: object) -> set[str]:
        before = ages(out)
        assert run(scans, out, '--volumes', table, *options) == 0
        return {name[0] for name, age in ages(out).items() if age != before.get(name)}

    out.mkdir()
    assert redone() == {*'abcd'}
    first = table.read_bytes()
    table.unlink()
    assert redone() == set()
    assert table.read_bytes() == first
    assert len(rows_of(table, ',')) == 4
    labels = out / 'a_synthseg.nii.gz'
    labels.write_bytes(labels.read_bytes()[:-9])
    (out / 'b_synthseg.nii.gz').unlink()
    (out / 'c_synthseg.json').write_text('{"Outputs": {}')
    assert redone() == {*'abc'}
    assert table.read_bytes() == first
    image = nib.Nifti1Image(rng.random((12, 14, 13)).astype('f4'), AFFINE)
    nib.save(image, scans / 'a.nii.gz')
    assert redone() == {'a'}
    assert redone('--fast') == {*'abcd'}
    assert redone('--fast', '--overwrite') == {*'abcd'}
    assert redone('--fast', '--posteriors', tmp_path / 'maps') == {*'abcd'}
    assert redone('--fast', '--posteriors', tmp_path / 'maps') == set()


def test_when_interrupted_what_was_segmented_before_is_written(tmp_path, scans, run, monkeypatch):
    done: list[Path] = []

    def interrupted(segmenter, scan, args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(scan.path)
        return segment(segmenter, scan, args)

    monkeypatch.setattr(segment_folder, 'segment', interrupted)
    assert run(scans, tmp_path / 'out') == 130
    names = (path.name.partition('.')[0] for path in done)
    written = {f'{name}_synthseg{end}' for name in names for end in ('.json', '.nii.gz')}
    assert files(tmp_path / 'out') == written


def test_folders_below_and_outputs_among_the_scans(tmp_path, scans, run):
    (scans / 'damaged.nii.gz').unlink()
    before = files(scans)
    options = ('--recursive', '--posteriors', scans / 'maps', '--volumes', tmp_path / 'v.tsv')
    for out in (scans, scans / 'out'):
        for _ in range(2):
            assert run(scans, out, *options) == 0
            assert [*rows_of(tmp_path / 'v.tsv')] == [
                'a.nii.gz',
                'b.nii',
                'c.mgz',
                'd.img',
                'deep/a.nii.gz',
            ]
    assert files(scans) - before == {
        f'{folder}{name}{end}'
        for name in ('a', 'b', 'c', 'd', 'deep/a')
        for folder, kind in (('', '_synthseg'), ('out/', '_synthseg'), ('maps/', '_posteriors'))
        for end in (f'{kind}.nii.gz', f'{kind}.json')
    }
    maps = nib.load(scans / 'maps/deep/a_posteriors.nii.gz')
    assert maps.shape == (12, 14, 13, 33)
    named = json.loads((scans / 'maps/deep/a_posteriors.json').read_text())
    assert named['Index'] == [label.index for label in segmentation_labels()]


def test_lists(tmp_path, scans, run, capsys):
    listed, outputs = tmp_path / 'in.txt', tmp_path / 'out.txt'
    listed.write_text(f'{scans}/a.nii.gz\n\n{scans}/deep/a.nii.gz\r\n')
    assert run(listed, tmp_path / 'out') == 1
    message = capsys.readouterr().err
    assert (
        f'{scans}/deep/a.nii.gz: its output a_synthseg.nii.gz is that of {scans}/a.nii.gz'
        in message
    )
    outputs.write_text(f'{tmp_path}/new/1.nii\n')
    assert run(listed, outputs) == 1
    assert 'has 1 lines for 2 scans' in capsys.readouterr().err
    outputs.write_text(f'{tmp_path}/new/1.nii\n{tmp_path}/new/2.nii.gz')
    assert run(listed, outputs, '--volumes', tmp_path / 'v.csv') == 0
    assert files(tmp_path / 'new') == {'1.nii', '1.json', '2.nii.gz', '2.json'}
    assert [*rows_of(tmp_path / 'v.csv', ',')] == [f'{scans}/a.nii.gz', f'{scans}/deep/a.nii.gz']


def test_refusals(tmp_path, scans, run, capsys):
    def refused(*arguments: object) -> str:
        assert run(*arguments) == 1
        return capsys.readouterr().err

    (tmp_path / 'empty').mkdir()
    assert 'empty: holds no scan' in refused(tmp_path / 'empty', tmp_path / 'out')
    assert 'is no folder' in refused(scans / 'b.nii', tmp_path / 'o.nii', '--recursive')
    assert 'o.nii: give a folder' in refused(scans, tmp_path / 'o.nii')
    listed = tmp_path / 'in.txt'
    listed.write_text(f'{scans}/b.nii')
    assert 'overwrite a list of paths' in refused(listed, tmp_path / 'out', '--lut', listed)
    (scans / 'b.mgz').write_bytes((scans / 'c.mgz').read_bytes())
    assert 'its output b_synthseg.nii.gz is that of' in refused(scans, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_colour_table(tmp_path, scans, run):
    assert run(scans / 'b.nii', tmp_path / 'o.nii', '--lut', tmp_path / 'new/lut.ctbl') == 0
    assert (tmp_path / 'new/lut.ctbl').read_text().startswith('# Color table file')


def test_the_way_of_the_reference(tmp_path, scans, tiny_model, monkeypatch):
    monkeypatch.setattr('synthseg_bids.inference.reference.SMALLEST', 32)
    network, card = load_model(tiny_model)
    save_model(tmp_path / 'fine.safetensors', network, replace(card, spacing_mm=1.0))
    (tmp_path / 'in.txt').write_text(f'{scans}/b.nii\n{scans}/damaged.nii.gz\n')
    arguments = [tmp_path / 'in.txt', tmp_path / 'out', '--compat', '--device', 'cpu']
    assert main(['segment', *map(str, arguments), '--model', f'{tmp_path}/fine.safetensors']) == 1
    assert nib.load(tmp_path / 'out/b_synthseg.nii.gz').shape == (48, 56, 52)


def test_a_bar_on_a_terminal(tmp_path, scans, run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    assert run(scans, tmp_path / 'out') == 1
    assert '5/5 [' in terminal.getvalue()
    assert 'segmented in' not in terminal.getvalue()
