from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from heads import write_heads
from labelled_scans import AFFINE, FAT, NOISE, T1W, T2W, labels, save, scan, write_dataset
from scipy import stats

from synthseg_bids.cli.main import main
from synthseg_bids.labels import generation_labels, unsided_classes
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.intensity import ContrastPriors, draw_intensities
from synthseg_bids.synth.label_maps import find_label_maps, generate, load_label_map
from synthseg_bids.synth.presets import MIDL2020
from synthseg_bids.training.priors import (
    FLOORS,
    PriorsError,
    estimate_priors,
    otsu_threshold,
    read_priors,
)
from synthseg_bids.training.real_scans import LoadedPair, PairsError, find_pairs, load_pairs

CLASS = {la.index: c for la, c in zip(generation_labels(), unsided_classes(), strict=True)}
ROW = {label.index: row for row, label in enumerate(generation_labels())}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def estimated(dataset):
    raw, references = dataset
    return estimate_priors(load_pairs(find_pairs(raw, {'fs': references})))


@pytest.fixture
def written(estimated, tmp_path):
    """The estimate on disk, and a function that changes it there."""
    path = tmp_path / 'priors.json'

    def change(edit):
        content = json.loads(json.dumps(estimated))
        edit(content['contrasts']['T1w']['classes'])
        path.write_text(json.dumps(content))
        return path

    change(lambda classes: None)
    return path, change


def rows(estimated, contrast):
    return {row['class']: row for row in estimated['contrasts'][contrast]['classes']}


def test_left_and_right_share_a_class():
    assert CLASS[2] == CLASS[41] != CLASS[3] == CLASS[42]
    assert sorted({*CLASS.values()}) == list(range(33))


def test_hyperpriors_are_those_of_the_scans(estimated):
    white, ventricles = (rows(estimated, 'T1w')[CLASS[label]] for label in (2, 4))
    # In the third, which has no skull, the brain itself is brightest.
    brain = scan({label: value + 30 for label, value in T1W.items()}, 3, skull=False)
    low, high = np.percentile(brain, (0.5, 99.5))
    in_third = (np.median(brain[np.isin(labels(), (2, 41))]) - low) / (high - low)
    means = np.array([150 / FAT, 160 / FAT, in_third])
    centre = np.median(means)
    spread = 1.4826 * np.median(abs(means - centre))
    assert white['mean'] == pytest.approx({'mean': centre, 'sd': max(spread, 0.05)}, abs=0.005)
    assert white['std']['mean'] == pytest.approx(NOISE / FAT, rel=0.1)
    assert white['source'] == 'estimated'
    assert white['scans'] == 3
    reference = labels()
    assert white['voxels'] == 3 * np.isin(reference, (2, 41)).sum()
    assert ventricles['voxels'] == 3 * np.isin(reference, (4, 43)).sum()
    assert white['labels'] == [2, 41]


def test_one_scan_has_the_floor_for_its_spread(estimated):
    for row in rows(estimated, 'T2w').values():
        if row['source'] == 'estimated':
            assert (row['mean']['sd'], row['std']['sd']) == FLOORS
    assert estimated['contrasts']['T2w']['scans'] == ['sub-1/anat/sub-1_T2w.nii.gz']
    white = rows(estimated, 'T2w')[CLASS[2]]
    assert white['mean']['mean'] == pytest.approx(T2W[2] / FAT, abs=0.005)


def test_where_classes_without_a_label_come_from(estimated):
    found = rows(estimated, 'T1w')
    sources = {label: found[CLASS[label]]['source'] for label in (0, 136, 4, 72, 24, 507, 25, 30)}
    ventricles = f'borrowed from class {CLASS[4]}'
    assert sources == {
        0: 'estimated', 136: 'estimated', 4: 'estimated', 72: ventricles, 24: ventricles,
        507: 'tissue', 25: 'wide', 30: 'wide',
    }  # fmt: skip
    assert found[CLASS[72]]['mean'] == found[CLASS[4]]['mean']
    assert found[CLASS[0]]['mean']['mean'] == 0
    # the skull of two scans; the third has none
    assert found[CLASS[507]]['scans'] == 2
    assert found[CLASS[507]]['mean']['mean'] == pytest.approx(1)
    wide = found[CLASS[25]]
    assert wide['voxels'] == wide['scans'] == 0
    assert wide['mean']['mean'] * 255 == pytest.approx(125, abs=0.01)
    assert wide['mean']['sd'] * 255 == pytest.approx(200 / 12**0.5, abs=0.01)


def test_without_a_head_its_tissue_is_wide():
    reference = labels().astype(np.int32)
    folded = np.where(reference == 1017, 3, np.where(reference == 2017, 42, reference))
    folded[folded == 31] = 4
    image = scan(T2W, skull=False) / FAT
    pair = LoadedPair('a', 'T2w', image, reference, folded.astype(np.int16), np.eye(4))
    # Stripping leaves little beyond the box around the brain, which begins at voxel 7.
    for side, source in ((8, 'wide'), (18, 'tissue')):
        image[8 : 8 + side, 3, 8 : 8 + side] = 0.8
        found = rows(estimate_priors([pair]), 'T2w')
        assert found[CLASS[507]]['source'] == source


def test_otsu_separates_two_groups(rng):
    values = np.concatenate([rng.normal(0.1, 0.02, 900), rng.normal(0.6, 0.1, 100)])
    assert 0.15 < otsu_threshold(values) < 0.4


def test_reading_gives_what_was_written(written, estimated):
    path, _ = written
    t1, t2 = read_priors(path)
    assert (t1.contrast, t2.contrast) == ('T1w', 'T2w')
    row = rows(estimated, 'T2w')[CLASS[3]]
    assert t2.means[CLASS[3]] == pytest.approx(
        (row['mean']['mean'] * 255, row['mean']['sd'] * 255)
    )
    assert t2.stds[CLASS[3]] == pytest.approx((row['std']['mean'] * 255, row['std']['sd'] * 255))
    assert read_priors(path, ['T2w']) == (t2,)
    with pytest.raises(PriorsError, match=r'holds no FLAIR; there are: T1w, T2w'):
        read_priors(path, ['FLAIR'])


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda rows: rows.pop(), r'T1w has classes \[0, .*\], needs 0 to 32'),
        (lambda rows: rows[3].pop('std'), r"T1w lacks a number \(KeyError: 'std'\)"),
        (lambda rows: rows[3]['std'].update(sd='much'), r'T1w lacks a number \(ValueError'),
        (lambda rows: rows[3]['std'].update(sd=-1), r'T1w, class 3: std has mean .* and sd -1;'),
        (lambda rows: rows[3]['mean'].update(mean=float('nan')), r'class 3: mean has mean nan'),
    ],
)
def test_bad_numbers_are_refused(written, edit, message):
    _, change = written
    with pytest.raises(PriorsError, match=message) as caught:
        read_priors(change(edit))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'not JSON'),
        ('[]', 'not "synthseg-bids intensity priors 1"'),
        ('{"format": "synthseg-bids intensity priors 1", "contrasts": {}}', 'holds no contrast'),
        (None, 'cannot be read'),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / 'p.json'
    if text is not None:
        path.write_text(text)
    with pytest.raises(PriorsError, match=message):
        read_priors(path)


def test_draws_follow_the_hyperpriors():
    first, second = (
        ContrastPriors(name, tuple((m + c, 2.0) for c in range(33)), ((9.0, 0.5),) * 33)
        for name, m in (('T1w', 100.0), ('T2w', 200.0))
    )
    config = replace(MIDL2020.intensity, priors=(first, second))
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_intensities(config, (16, 16, 16), generator) for _ in range(2000)]
    means = torch.stack([d.means for d in drawn]).numpy()
    bright = means[:, ROW[2]] > 170
    assert abs(bright.mean() - 0.5) < 0.04
    # one contrast for all classes of a sample
    assert ((means > 170).all(1) == bright).all()
    assert (means[:, ROW[2]] == means[:, ROW[41]]).all()
    expected = stats.norm(100 + CLASS[2], 2)
    assert stats.kstest(means[~bright, ROW[2]], expected.cdf).pvalue > 0.01
    stds = [float(d.stds[ROW[16]]) for d in drawn]
    assert stats.kstest(stds, stats.norm(9, 0.5).cdf).pvalue > 0.01
    again = draw_intensities(config, (16, 16, 16), torch.Generator().manual_seed(0))
    assert torch.equal(again.means, drawn[0].means)


def test_synthetic_scans_look_like_the_contrast(written, tmp_path):
    label_map = load_label_map(find_label_maps(write_heads(tmp_path, 1))[0])
    for contrast, white_is_brighter in (('T1w', True), ('T2w', False)):
        intensity = replace(
            MIDL2020.intensity, bias_std=(0, 0), priors=read_priors(written[0], [contrast])
        )
        still = DeformationConfig(translation=0, svf_std=(0, 0))
        config = replace(MIDL2020, size=None, intensity=intensity, deformation=still)
        for seed in range(5):
            image, target, _ = generate(label_map, config, torch.Generator().manual_seed(seed))
            # channels 1 and 2: left white matter and cortex
            assert (image[target == 1].mean() > image[target == 2].mean()) == white_is_brighter


def test_command_line(dataset, tmp_path, capsys):
    raw, references = dataset
    out = tmp_path / 'priors.json'
    command = ['estimate-priors', str(raw), '--reference', f'fs={references}', str(out)]
    assert main([*command, '--participant-label', 'sub-1', '2']) == 0
    assert 'T1w: 2 scans; classes: ' in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content['contrasts']['T1w']['scans'] == [
        'sub-1/anat/sub-1_T1w.nii.gz', 'sub-2/anat/sub-2_T1w.nii.gz'
    ]  # fmt: skip
    (tmp_path / 'maps').mkdir()
    maps = write_heads(tmp_path / 'maps')
    train = ['train', str(maps), str(tmp_path / 'run'), '--priors', str(out), '--contrast', 'T2w']
    train += ['--preset', 'midl2020', '--steps', '1', '--features', '2', '--levels', '2']
    train += ['--size', '16', '16', '16', '--device', 'cpu']
    assert main(train) == 0
    card = json.loads((tmp_path / 'run' / 'model.json').read_text())
    (used,) = card['training']['config']['generator']['intensity']['priors']
    assert used['contrast'] == 'T2w'
    synthesize = ['synthesize', str(maps), str(tmp_path / 'out'), '--priors', str(out)]
    assert main([*synthesize, '--contrast', 'T1w', '--size', '16', '--device', 'cpu']) == 0
    assert (tmp_path / 'out' / 'synth-0000_image.nii.gz').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['--participant-label', '9'], 'participant 9 not found; there are: 1, 2, 3, 4'),
        (['--participant-label', '4'], '1 scans, none with a reference'),
        (['--contrast', 'FLAIR'], '0 scans, none with a reference'),
        (['--participant-label', '2', '--contrast', 'T1w', 'T2w'], 'no T2w scan has a reference'),
    ],
)
def test_what_is_not_there_is_told_in_one_line(dataset, tmp_path, capsys, change, message):
    raw, references = dataset
    command = ['estimate-priors', str(raw), str(tmp_path / 'p.json')]
    assert main([*command, '--reference', f'fs={references}', *change]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_every_reference_that_cannot_be_used_is_named(tmp_path):
    raw, references = write_dataset(tmp_path)
    other = labels()
    other[other > 0] += 9000
    save(references, 'sub-1', 'desc-aparcaseg_dseg', other, AFFINE)
    far = AFFINE.copy()
    far[:3, 3] = 500
    save(references, 'sub-2', 'desc-aparcaseg_dseg', labels(), far)
    with pytest.raises(PairsError) as caught:
        list(load_pairs(find_pairs(raw, {'fs': references}, contrasts=['T1w'])))
    message = str(caught.value)
    assert message.startswith('2 of 3 scans cannot be used: ')
    assert 'are not FreeSurfer labels' in message
    assert '0% of it lies in the field of view' in message
    with pytest.raises(PairsError, match='no such folder'):
        find_pairs(raw, {'fs': references / 'absent'})
