"""The accuracy benchmark: synthetic scans of a tiny label map, tables, page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from synthetic import SLICES, WIDE, synthetic_scan, thick_slices

from synthseg_bids.files import read_table
from synthseg_bids.models.card import read_card
from synthseg_bids.models.registry import model_path
from synthseg_bids.synth.label_maps import load_label_map

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def accuracy():
    path = REPOSITORY / 'benchmarks' / 'accuracy.py'
    spec = importlib.util.spec_from_file_location('accuracy', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def label_map(tmp_path):
    """A head of ventricles, white matter and cortex, left and right, in fluid."""
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[2:30, 2:30, 2:30] = 24
    labels[5:27, 5:27, 5:27] = 3
    labels[8:24, 8:24, 8:24] = 2
    labels[12:20, 13:19, 13:19] = 4
    labels[16:][labels[16:] == 4] = 43
    labels[16:][labels[16:] == 3] = 42
    labels[16:][labels[16:] == 2] = 41
    path = tmp_path / 'maps' / 'sub-13_dseg.nii.gz'
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, 1, 1, 1])), path)
    return path


def test_thick_slices_are_thick_along_one_axis(label_map):
    source = load_label_map(label_map)
    image, labels, affine = synthetic_scan(source, SLICES, 3)
    assert image.shape == labels.shape == (32, 32, 32)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.abs(np.diag(affine)), 1)
    assert {2, 41} <= {*np.unique(labels)}
    # between two slices nothing but linear interpolation
    bends = [np.abs(np.diff(image, 2, axis)).mean() for axis in range(3)]
    assert min(bends) < 0.25 * np.median(bends)
    again, _, _ = synthetic_scan(source, SLICES, 3)
    np.testing.assert_array_equal(image, again)
    assert thick_slices(1, 1.0).step == (1, 5, 1)


def test_wide_ventricles_are_wide(label_map):
    source = load_label_map(label_map)
    usual, wide = (
        sum(np.isin(synthetic_scan(source, name, seed)[1], (4, 43)).sum() for seed in range(6))
        for name in ('midl2020', WIDE)
    )
    assert wide > 1.3 * usual > 50


@pytest.mark.slow
def test_from_label_map_to_page(accuracy, label_map, tmp_path, tiny_model, capsys):
    docs = tmp_path / 'docs'
    absent = ['--bids', tmp_path / 'absent', '--references', tmp_path / 'absent']
    arguments = [*absent, '--label-maps', label_map.parent, '--model', tiny_model]
    arguments += ['--scans', 2, '--threads', 1, '--docs', docs]
    assert accuracy.main([str(argument) for argument in arguments]) == 0
    assert 'no participant with a reference; skipped' in capsys.readouterr().out
    summary = read_table(docs / 'accuracy' / 'synthetic_summary.tsv')
    assert {row['contrast'] for row in summary} == {*accuracy.CONDITIONS, 'all'}
    assert {row['n'] for row in summary if row['structure'] == 'cerebral cortex'} == {'2', '8'}
    page = (docs / 'accuracy.rst').read_text()
    assert 'Real scans' not in page
    assert f'{float(summary[0]["mean"]):.3f}' in page
    assert accuracy.sha256(tiny_model) in page
    assert (docs / 'accuracy' / 'synthetic.png').exists()
    for condition in accuracy.CONDITIONS:
        assert (docs / 'accuracy' / f'worst_{condition}.png').exists()
    sureness = read_table(docs / 'accuracy' / 'synthetic_sureness.tsv')
    assert len(sureness) == 8 * 32
    assert page == accuracy.page(docs / 'accuracy')


@pytest.mark.slow
def test_real_scans_with_and_without_the_mirrored_pass(
    accuracy, raw, references, tmp_path, tiny_model
):
    arguments = ['--bids', raw, '--references', references, '--label-maps', tmp_path / 'absent']
    arguments += ['--limit', 1, '--model', tiny_model, '--threads', 1, '--docs', tmp_path]
    assert accuracy.main([str(argument) for argument in arguments]) == 0
    facts, dice = {}, {}
    for name in ('real', 'real_fast'):
        rows = read_table(tmp_path / 'accuracy' / f'{name}_run.tsv')
        facts[name] = {row['fact']: row['value'] for row in rows}
        assert facts[name]['Scans'] == '2 segmented, 0 failed'
        # Scans as small as these may take less than the tables resolve.
        assert re.fullmatch(r'\d+\.\d', facts[name]['Seconds per scan (median)'])
        dice[name] = (tmp_path / 'accuracy' / f'{name}_scans.tsv').read_text()
    assert '--fast' in facts['real_fast']['Command 1']
    assert '--fast' not in facts['real']['Command 1']
    assert dice['real'] != dice['real_fast']
    assert 'Real scans with ``--fast``' in (tmp_path / 'accuracy.rst').read_text()


def test_label_maps_seen_in_training_are_refused(accuracy, label_map, tmp_path):
    name = read_card(model_path('default')).training['label_maps'][0]
    seen = label_map.rename(label_map.with_name(name))
    arguments = ['--bids', tmp_path, '--references', tmp_path, '--docs', tmp_path]
    arguments += ['--label-maps', seen, '--held-out', name]
    with pytest.raises(SystemExit, match='trained on it'):
        accuracy.main([str(argument) for argument in arguments])


def test_the_page_holds_the_numbers_of_its_tables(accuracy):
    page = REPOSITORY / 'docs' / 'accuracy.rst'
    if not page.exists():
        pytest.skip('make accuracy has not been run')
    assert page.read_text(encoding='utf-8') == accuracy.page(page.parent / 'accuracy')
