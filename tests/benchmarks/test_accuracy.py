"""The accuracy benchmark: scans of a tiny label map, thick slices, tables, targets, page."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from accuracy.__main__ import main
from accuracy.document import page
from accuracy.lesions import lesion_reference, lesion_row
from accuracy.real import without
from accuracy.repeatability import (
    add_noise,
    around_brain,
    average_slices,
    compare_maps,
    without_top,
)
from accuracy.steps import call
from accuracy.tabulate import repeatability_tables
from accuracy.targets import accumbens_ratio, find_targets, within
from app import program_here
from plain_head import write_head
from synthetic import (
    ACQUIRED,
    CONDITIONS,
    LOW_FIELD,
    NOISY,
    SLICES,
    WIDE,
    synthetic_scan,
    thick_slices,
)

from synthseg_bids import __version__
from synthseg_bids.files import read_table, sha256, write_table
from synthseg_bids.images.volume_io import Volume, read_label_map
from synthseg_bids.labels import network_labels
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.summary import SCAN_COLUMNS, STRUCTURE_COLUMNS
from synthseg_bids.models.card import ModelCard, read_card, save_model
from synthseg_bids.models.registry import model_path
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.synth.label_maps import load_label_map

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def label_map(tmp_path):
    """A head of ventricles, white matter and cortex, left and right, in fluid."""
    path = tmp_path / 'maps' / 'sub-13_dseg.nii.gz'
    write_head(path)
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


def test_noise_is_all_that_noisy_scans_differ_in(label_map):
    source = load_label_map(label_map)
    scans = {name: synthetic_scan(source, name, 5) for name in ('synthseg2023', *ACQUIRED)}
    labels = scans['synthseg2023'][1]
    for name in ACQUIRED:
        np.testing.assert_array_equal(scans[name][1] > 0, labels > 0)
    # Resolution, contrast and all else are the same, so that the noise is what differs.
    clean, noisy = scans['synthseg2023'][0], scans[NOISY][0]
    assert 0.01 < np.abs(noisy - clean).mean() < 0.2
    assert np.corrcoef(noisy.ravel(), clean.ravel())[0, 1] > 0.8
    # At low field there is nothing but interpolation between voxels of 3 mm.
    bends = np.abs(np.diff(scans[LOW_FIELD][0], 2, 0)).mean((1, 2))
    assert np.median(bends) < 0.5 * bends.max()


@pytest.fixture(scope='module')
def lesion_model(tmp_path_factory):
    """A network of random weights that has a label of lesions."""
    labels = network_labels(lesions=True)
    config = NetworkConfig(
        features=4, levels=3, norm='instance', norm_placement='conv', out_channels=len(labels)
    )
    path = tmp_path_factory.mktemp('lesions') / 'lesions.safetensors'
    card = ModelCard(name='lesions', network=config, spacing_mm=4.0, labels=labels)
    save_model(path, UNet3D(config), card)
    return path


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['tiny_model', 'lesion_model'])
def test_from_label_map_to_page(label_map, tmp_path, kind, request, capsys):
    model = request.getfixturevalue(kind)
    docs = tmp_path / 'docs'
    arguments = ['--data', tmp_path / 'absent', '--label-maps', label_map.parent]
    arguments += ['--model', model, '--scans', 2, '--threads', 1, '--docs', docs]
    assert main([str(argument) for argument in arguments]) == 0
    skipped = capsys.readouterr().out
    assert skipped.count('here; skipped') == 3
    assert 'sub-aomic_T1w.nii.gz, or not all of' in skipped
    summary = read_table(docs / 'accuracy' / 'generated_summary.tsv')
    assert {row['contrast'] for row in summary} == {*CONDITIONS, 'all'}
    assert {row['n'] for row in summary if row['structure'] == 'cerebral cortex'} == {'2', '12'}
    text = (docs / 'accuracy.rst').read_text()
    assert 'Real scans' not in text
    assert f'{float(summary[0]["mean"]):.3f}' in text
    assert sha256(model) in text
    assert (docs / 'accuracy' / 'generated.png').exists()
    for condition in CONDITIONS:
        assert (docs / 'accuracy' / f'worst_{condition}.png').exists()
    confidence = read_table(docs / 'accuracy' / 'generated_confidence.tsv')
    assert len(confidence) == 12 * 32
    assert text == page(docs / 'accuracy')


@pytest.fixture
def data(raw, references, tmp_path):
    """A data folder with one data set, its references and masks, and the list of its scans."""
    folder = tmp_path / 'data' / 'toy'
    (folder / 'derivatives').mkdir(parents=True)
    (folder / 'derivatives' / 'reference').symlink_to(references)
    for name in ('dataset_description.json', 'sub-01', 'sub-02'):
        (folder / name).symlink_to(raw / name)
    columns = ('Scan', 'Data set', 'Group', 'What it is')
    scans = {'sub-01 T1w': 'adults', 'sub-01 T2w': 'templates', 'sub-03 T1w': 'adults'}
    rows = [
        dict(zip(columns, (scan, 'toy', group, 'noise'), strict=True))
        for scan, group in scans.items()
    ]
    write_table(tmp_path / 'docs' / 'accuracy' / 'real_sources.tsv', columns, rows)
    return folder.parent


@pytest.mark.slow
def test_real_scans_templates_and_the_mirrored_pass(data, tmp_path, lesion_model, monkeypatch):
    def call_here(*command):
        words = [str(word) for word in command]
        return program_here(words), shlex.join(words)

    monkeypatch.setattr('accuracy.real.call', call_here)
    docs = tmp_path / 'docs'
    arguments = ['--data', data, '--model', lesion_model, '--threads', 1, '--docs', docs]
    arguments += ['--parts', 'real', 'templates', 'fast', '--work', tmp_path / 'work']
    assert main([str(argument) for argument in arguments]) == 0
    facts, dice = {}, {}
    for name in ('real', 'templates', 'fast'):
        rows = read_table(docs / 'accuracy' / f'{name}_run.tsv')
        facts[name] = {row['fact']: row['value'] for row in rows}
        # The data set's participant has both of its contrasts segmented.
        assert facts[name]['Scans'] == '2 segmented, 0 failed'
        # Scans as small as these may take less than the tables resolve.
        assert re.fullmatch(r'\d+\.\d', facts[name]['Seconds per scan (median)'])
        scans = read_table(docs / 'accuracy' / f'{name}_scans.tsv')
        dice[name] = {(row['scan'], row['contrast'], row['index']): row['dice'] for row in scans}
    assert '--fast' in facts['fast']['Command 1']
    assert '--fast' not in facts['real']['Command 1']
    assert {key[:2] for key in dice['real']} == {('sub-01 T1w', 'adults, T1w')}
    assert {key[:2] for key in dice['templates']} == {('sub-01 T2w', 'templates, T2w')}
    assert dice['real'].keys() == dice['fast'].keys()
    assert dice['real'] != dice['fast']
    lesions = read_table(docs / 'accuracy' / 'real_lesions.tsv')
    assert [(row['scan'], row['dice']) for row in lesions] == [('sub-01 T1w', 'n/a')]
    assert float(lesions[0]['volume_ml']) >= 0
    text = (docs / 'accuracy.rst').read_text()
    assert 'Lesions of the white matter' in text
    assert 'Real scans with ``--fast``' in text
    assert 'Average templates' in text
    # What is segmented is not segmented again.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'work').rglob('*_dseg.nii.gz')}
    assert len(before) == 6
    assert main([str(argument) for argument in arguments]) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (docs / 'accuracy.rst').read_text() == text


def test_label_maps_seen_in_training_are_refused(label_map, tmp_path):
    name = read_card(model_path('default')).training['label_maps'][0]
    seen = label_map.rename(label_map.with_name(name))
    arguments = ['--parts', 'generated', '--docs', tmp_path]
    arguments += ['--label-maps', seen, '--held-out', name]
    with pytest.raises(SystemExit, match='trained on it'):
        main([str(argument) for argument in arguments])


def test_slices_average_what_they_cover():
    line = np.array([1.0, 2, 4, 8, 16, 32, 64])
    data = np.stack([line, 10 * line])[:, :, None]
    affine = np.diag([2.0, -1, 1, 1])
    affine[:3, 3] = 5, 6, 7
    thick, grid = average_slices(data, affine, 1, 3)
    np.testing.assert_allclose(thick[0, :, 0], [7 / 3, 56 / 3], rtol=1e-6)
    np.testing.assert_allclose(thick[1, :, 0], [70 / 3, 560 / 3], rtol=1e-6)
    # The first slice lies where the second voxel was.
    np.testing.assert_allclose(grid @ [0, 0, 0, 1], affine @ [0, 1, 0, 1])
    np.testing.assert_allclose(np.diag(grid), [2, -3, 1, 1])
    # The voxel that two slices of 2.5 mm share counts by half in each.
    thick, grid = average_slices(data, affine, 1, 2.5)
    np.testing.assert_allclose(thick[0, :, 0], [(1 + 2 + 2) / 2.5, (2 + 8 + 16) / 2.5], rtol=1e-6)
    np.testing.assert_allclose(grid @ [0, 0, 0, 1], affine @ [0, 0.75, 0, 1])


def test_cuts_leave_the_brain_or_take_its_top():
    head = np.zeros((30, 40, 50), bool)
    head[5:25, 5:35, 4:44] = True
    brain = np.zeros_like(head)
    brain[10:20, 10:30, 1:20] = True
    assert around_brain(brain) == (slice(5, 25), slice(5, 35), slice(0, 25))
    kept = without_top(head, np.diag([1.0, 1, 2, 1]))
    assert kept[2] == slice(0, 34)
    upside_down = without_top(head, np.diag([-1.0, 1, -2, 1]))
    assert upside_down[2] == slice(14, None)
    assert upside_down[:2] == (slice(None), slice(None))


def test_noise_has_the_asked_for_ratio():
    data = np.full((40, 40, 40), 100.0)
    data[20:] = 0
    brain = data > 0
    noisy = add_noise(data, brain, 10, seed=1)
    assert noisy[brain].std() == pytest.approx(10, rel=0.05)
    # Without a signal the magnitude of the noise is Rayleigh distributed.
    assert noisy[~brain].mean() == pytest.approx(10 * math.sqrt(math.pi / 2), rel=0.05)


def test_what_changes_is_told_in_percent():
    before = np.zeros((4, 4, 4), int)
    before[0], before[1], before[2] = 10, 49, 16
    after = before.copy()
    after[0, 0] = 0
    rows = compare_maps('turned', after, before, np.diag([1.0, 1, 2, 1]))
    thalamus = next(row for row in rows if row['structure'] == 'thalamus')
    assert (thalamus['volume_mm3'], thalamus['unchanged_mm3']) == (56, 64)
    assert thalamus['dice'] == pytest.approx((24 / 28 + 1) / 2)
    cells = [{key: str(value) for key, value in row.items()} for row in rows]
    cells = [{**row, 'dice': row['dice'].replace('nan', 'n/a')} for row in cells]
    text = repeatability_tables(cells)[0]
    assert '"turned", "0.964", "6.2", "-12.5 (thalamus)"' in text


def test_lesions_against_a_mask(tmp_path):
    labels = np.zeros((10, 10, 10), np.int16)
    labels[2:6] = 77
    mask = np.zeros_like(labels)
    mask[4:8] = 77
    affine = np.diag([1.0, 1, 2, 1])
    for name, data in (('ours', labels), ('mask', mask)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f'{name}.nii.gz')
    ours, theirs = (read_label_map(tmp_path / f'{name}.nii.gz') for name in ('ours', 'mask'))
    row = lesion_row('sub-1 FLAIR', 'patients, FLAIR', ours, theirs)
    assert row['volume_ml'] == row['reference_ml'] == pytest.approx(0.8)
    assert row['dice'] == 0.5
    assert 'dice' not in lesion_row('sub-1 T1w', 'adults, T1w', ours, None)


def test_experts_say_where_lesions_are_or_else_who_found_some():
    def reference(what, *labels):
        data = np.array(labels, np.int16).reshape(-1, 1, 1)
        return Volume(data, np.eye(4), None, Path(f'sub-1_desc-{what}_dseg.nii.gz'))

    mask, aseg, other = reference('lesions', 0, 0), reference('aseg', 2, 77), reference('x', 2, 3)
    assert lesion_reference([aseg, mask]) is mask
    assert lesion_reference([other, aseg]) is aseg
    assert lesion_reference([other]) is None
    assert lesion_reference([]) is None


def test_labels_of_another_protocol_are_unknown():
    row = {'index': 18, 'dice': 0.5, 'volume_mm3': 1.0, 'reference_volume_mm3': 2.0}
    mean = {'name': MEAN_NAME, 'dice': 0.7}
    found = without([row, {**row, 'index': 17}, mean], (18, 54))
    assert math.isnan(found[0]['dice'])
    assert math.isnan(found[0]['reference_volume_mm3'])
    assert found[1:] == [{**row, 'index': 17}, mean]


def scan_row(scan, contrast, **cells):
    blank = dict.fromkeys(SCAN_COLUMNS, '0.0')
    return {**blank, 'scan': scan, 'contrast': contrast, 'kind': 'mean', **cells}


def test_targets_by_hand(tmp_path):
    met = {target.text: target.met for target in find_targets(tmp_path)}
    assert set(met.values()) == {'n/a'}
    dice = {
        ('a T1w', 'adults, T1w'): '0.9', ('b T1w', 'adults, T1w'): '0.84',
        ('c T1w', 'infants, T1w'): '0.83', ('d T1w', 'infants, T1w'): '0.82',
    }  # fmt: skip
    rows = [scan_row(*key, structure=MEAN_NAME, dice=value) for key, value in dice.items()]
    volumes = {'26': ('100', '90'), '58': ('100', '110')}
    rows += [
        scan_row('a T1w', 'adults, T1w', kind='label', index=index, structure='Accumbens',
                 volume_mm3=ours, reference_volume_mm3=theirs)
        for index, (ours, theirs) in volumes.items()
    ]  # fmt: skip
    write_table(tmp_path / 'real_scans.tsv', SCAN_COLUMNS, rows)
    structures = [
        {'contrast': 'all', 'structure': name, 'volume_ratio': ratio}
        for name, ratio in (('amygdala', '1.14'), ('caudate', '1.12'))
    ]
    write_table(tmp_path / 'real_structures.tsv', STRUCTURE_COLUMNS, structures)
    generated = [
        scan_row(name, name, structure=MEAN_NAME, dice=value)
        for name, value in (('midl2020', '0.88'), ('synthseg2023', '0.82'), ('snr', '0.785'))
    ]
    write_table(tmp_path / 'generated_scans.tsv', SCAN_COLUMNS, generated)
    columns = ('scan', 'contrast', 'volume_ml', 'reference_ml', 'dice')
    lesions = [
        ('x FLAIR', 'multiple sclerosis, FLAIR', '6.5', '10', '0.55'),
        ('y FLAIR', 'multiple sclerosis, FLAIR', '11', '10', '0.48'),
        ('a T1w', 'adults, T1w', '0.4', 'n/a', 'n/a'),
    ]
    rows = [dict(zip(columns, row, strict=True)) for row in lesions]
    write_table(tmp_path / 'real_lesions.tsv', columns, rows)
    found = {target.text: (target.reached, target.met) for target in find_targets(tmp_path)}
    assert found['adults, T1w: mean Dice'] == ('0.870', 'no')
    assert found['adults, T1w: Dice of each scan'] == ('0.840 to 0.900', 'no')
    assert found['infants, T1w: Dice of each scan'] == ('0.820 to 0.830', 'yes')
    assert found['infants, T2w: Dice of each scan'] == ('n/a', 'n/a')
    assert found['midl2020: mean Dice'] == ('0.880', 'yes')
    assert found['synthseg2023: mean Dice'] == ('0.820', 'no')
    assert found['snr: mean Dice below that of synthseg2023'] == ('0.035', 'no')
    volumes = found['Real individuals: volume ratio of each structure']
    assert volumes == ('outside: caudate 1.120', 'no')
    assert accumbens_ratio(read_table(tmp_path / 'real_scans.tsv')) == pytest.approx(1)
    assert found['Lesions, FLAIR: Dice of each scan'] == ('0.480 to 0.550', 'no')
    assert found['Lesions, FLAIR: volume differs by'] == ('35% at most', 'yes')
    assert found['Lesions, healthy adults, T1w: ml'] == ('0.40 at most', 'yes')


def test_ratios_are_within_limits_or_not():
    assert within('x', 0.95, 1.05, {'caudate': 0.96, 'putamen': 1.05}).met == 'yes'
    outside = within('x', 0.95, 1.05, {'caudate': 0.94, 'putamen': 1.0})
    assert (outside.reached, outside.met) == ('0.940 (caudate) to 1.000 (putamen)', 'no')


def test_the_page_holds_the_numbers_of_its_tables():
    path = REPOSITORY / 'docs' / 'accuracy.rst'
    if not path.exists():
        pytest.skip('make accuracy has not been run')
    assert path.read_text(encoding='utf-8') == page(path.parent / 'accuracy')


def test_commands_run_in_processes_of_their_own(capfd):
    assert call('synthseg', '--version') == (0, 'synthseg --version')
    assert __version__ in capfd.readouterr().out
