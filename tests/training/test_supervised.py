from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from heads import write_heads
from labelled_scans import AFFINE, T1W, labels, save, scan, write_dataset

from synthseg_bids.cli.main import main
from synthseg_bids.labels import channel_labels, mirror_channels
from synthseg_bids.models.unet import NetworkConfig
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.intensity import IntensityConfig
from synthseg_bids.synth.label_maps import find_label_maps, generate, load_label_map
from synthseg_bids.synth.parameters import GeneratorConfig
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.synth.ventricles import VentricleConfig
from synthseg_bids.training.real_scans import find_pairs, load_pairs
from synthseg_bids.training.supervised import labelled_scan
from synthseg_bids.training.trainer import CheckpointError, Trainer, TrainingConfig

STILL = GeneratorConfig(
    size=None,
    deformation=DeformationConfig(
        rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0)
    ),
    intensity=IntensityConfig(bias_std=(0, 0), gamma=0),
)
CONFIG = TrainingConfig(
    network=NetworkConfig(features=2, levels=2, norm='instance', norm_placement='conv'),
    generator=replace(PRESETS['midl2020'], size=(16, 16, 16), crop_jitter=2),
    steps=4,
    epoch_steps=2,
    batch_size=2,
)
SMALL = ['--steps', '2', '--epoch-steps', '1', '--features', '2', '--levels', '2']
SMALL += ['--size', '16', '16', '16', '--preset', 'midl2020', '--device', 'cpu']


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def scans(dataset):
    raw, references = dataset
    return [labelled_scan(pair) for pair in load_pairs(find_pairs(raw, {'fs': references}))]


def make(one, config, seed=0):
    image, target, _ = generate(one, config, torch.Generator().manual_seed(seed))
    return image, torch.tensor(channel_labels())[target.long()].numpy()


def folded():
    """The labels that a network is to give."""
    reference = labels()
    for label, target in ((1017, 3), (2017, 42), (31, 4)):
        reference[reference == label] = target
    return reference


def test_without_augmentation_scan_and_labels_are_as_on_disk(scans):
    image, target = make(scans[0], STILL)
    wanted = scan({label: value - 10 for label, value in T1W.items()}, seed=1)
    wanted = np.clip(wanted, *np.percentile(wanted, (0.5, 99.5)))
    wanted = (wanted - wanted.min()) / np.ptp(wanted)
    np.testing.assert_allclose(image, wanted, atol=1e-3)
    np.testing.assert_array_equal(target, folded())


def test_scan_and_labels_move_together(scans):
    deformation = DeformationConfig(rotation_deg=30, translation=3, svf_std=(1, 1), svf_unit=1)
    # White matter of one value, all else of another.
    white = torch.from_numpy(np.isin(folded(), (2, 41)))
    one = replace(scans[0], scan=white.half())
    image, target = make(one, replace(STILL, deformation=deformation), seed=3)
    inside = np.isin(target, (2, 41))
    assert not np.array_equal(inside, white.numpy())
    assert np.corrcoef(image.numpy().ravel(), inside.ravel())[0, 1] > 0.9


def test_scan_and_labels_have_the_same_ventricles(scans):
    inside = torch.from_numpy(np.isin(folded(), (4, 43)))
    one = replace(scans[0], scan=inside.half())
    config = replace(STILL, ventricles=VentricleConfig(probability=1, growth=(4, 4)))
    image, target = make(one, config)
    grown = np.isin(target, (4, 43))
    assert grown.sum() > 1.5 * int(inside.sum())
    assert np.corrcoef(image.numpy().ravel(), grown.ravel())[0, 1] > 0.9


def test_a_flip_exchanges_the_sides(scans):
    flipped = replace(STILL, deformation=replace(STILL.deformation, flip_probability=1))
    image, target = make(scans[0], STILL)
    mirrored, its_target = make(scans[0], flipped)
    torch.testing.assert_close(mirrored, image.flip(0), atol=1e-4, rtol=0)
    channel = {label: number for number, label in enumerate(channel_labels())}
    swapped = np.array(channel_labels())[
        mirror_channels()[np.vectorize(channel.get)(target[::-1])]
    ]
    np.testing.assert_array_equal(its_target, swapped)


def test_fluid_and_head_are_never_stripped(scans):
    config = replace(STILL, skull_strip_probability=1, no_csf_probability=1)
    for ours, theirs in zip(make(scans[0], config), make(scans[0], STILL), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gamma_bias_and_resolution_are_those_of_the_generator(scans):
    plain = make(scans[0], STILL)[0]
    brighter = replace(STILL, intensity=replace(STILL.intensity, gamma=0.3))
    parameters = generate(scans[0], brighter, torch.Generator().manual_seed(1))[2]
    image, _ = make(scans[0], brighter, seed=1)
    torch.testing.assert_close(image, plain**parameters.intensities.gamma, atol=1e-4, rtol=0)
    for other in (
        replace(STILL, intensity=replace(STILL.intensity, bias_std=(0.5, 0.5))),
        replace(STILL, resolution=replace(PRESETS['synthseg2023'].resolution, full_probability=0)),
    ):
        assert not torch.allclose(make(scans[0], other)[0], plain, atol=0.05)


def test_coarse_voxels_average_the_scan(scans):
    image, target = make(scans[0], replace(STILL, downsampling=2))
    assert image.shape == target.shape == (16, 16, 16)
    assert ({*np.unique(target)} - {0}) <= {2, 3, 4, 41, 42, 43}
    plain = make(scans[0], STILL)[0]
    pooled = torch.nn.functional.avg_pool3d(plain[None, None], 2)[0, 0]
    pooled = (pooled - pooled.min()) / (pooled.max() - pooled.min())
    torch.testing.assert_close(image, pooled, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize('preset', PRESETS)
def test_cpu_and_gpu_agree(scans, preset):
    config = replace(PRESETS[preset], size=None)
    image, target = make(scans[0], config)
    its_image, its_target, _ = generate(
        scans[0].to('cuda'), config, torch.Generator().manual_seed(0)
    )
    assert (image - its_image.cpu()).abs().mean() < 1e-3
    its_labels = np.array(channel_labels())[its_target.cpu().numpy()]
    assert (target != its_labels).mean() < 1e-3


def test_a_small_scan_is_padded_to_the_crop(dataset):
    raw, references = dataset
    pairs = find_pairs(raw, {'fs': references}, ['1'], ['T1w'])
    (one,) = (labelled_scan(pair, (40, 16, 33)) for pair in load_pairs(pairs))
    assert one.indices.shape == one.scan.shape == (40, 32, 33)
    np.testing.assert_array_equal(make(one, STILL)[1][4:36, :, :32], folded())
    np.testing.assert_allclose(one.affine @ [4, 0, 0, 1], [-16, -16, -16, 1])


def test_resuming_is_exact(scans, tmp_path):
    whole, part, resumed = (Trainer(CONFIG, scans) for _ in range(3))
    whole.run(lambda *_: None)
    for _ in range(3):
        part.train_step()
    part.save(tmp_path / 'c.pt')
    resumed.resume(tmp_path / 'c.pt')
    resumed.run(lambda *_: None)
    pairs = zip(whole.network.parameters(), resumed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_on_label_maps_is_not_resumed_on_scans(scans, tmp_path):
    maps = [load_label_map(path) for path in find_label_maps(write_heads(tmp_path))]
    Trainer(CONFIG, maps).save(tmp_path / 'c.pt')
    with pytest.raises(CheckpointError, match='trained on label_maps, asked for scans'):
        Trainer(CONFIG, scans).resume(tmp_path / 'c.pt')


def test_command_line(dataset, tmp_path):
    raw, references = dataset
    out = tmp_path / 'run'
    command = ['train', '--participant-label', '1', 'sub-2', '--images', str(raw)]
    command += ['--reference', f'fs={references}', '--validate-on', 'sub-2', *SMALL, str(out)]
    assert main(command) == 0
    card = json.loads((out / 'model.json').read_text())
    assert card['training']['scans'] == [
        'sub-1/anat/sub-1_T1w.nii.gz',
        'sub-1/anat/sub-1_T2w.nii.gz',
    ]
    assert card['validation']['scans'] == ['sub-2/anat/sub-2_T1w.nii.gz']
    command[command.index('--steps') + 1] = '3'
    assert main(command) == 0
    with open(out / 'learning_curve.tsv', newline='') as stream:
        assert [row['step'] for row in csv.DictReader(stream, delimiter='\t')] == ['1', '2', '3']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--images', '{raw}', '{out}'], 'add --reference NAME=PATH'),
        (['{maps}', '{out}', '--images', '{raw}', '--reference', 'fs={raw}'], 'give OUT alone'),
        (['{out}'], 'give LABEL_MAPS and OUT, or OUT and --images'),
        (['{maps}', '{out}', '--participant-label', '1'], 'add --images'),
        (['{maps}', '{out}', '--contrast', 'T1w'], 'give the --priors or the --images'),
        (['{out}', '--images', '{raw}', '--reference', 'fs={raw}'], 'none with a reference'),
        (['{out}', '--images', '{maps}', '--reference', 'fs={raw}'], 'no sub-* folder here'),
        (
            ['{out}', '--images', '{raw}', '--reference', 'fs={raw}', '--priors', 'p.json'],
            'leave it out with --images',
        ),
        (
            [
                '{out}',
                '--images',
                '{raw}',
                '--reference',
                'fs={references}',
                '--validate-on',
                'sub',
            ],
            'everything is held out',
        ),
    ],
)
def test_options_that_do_not_go_together(dataset, tmp_path, capsys, arguments, message):
    raw, references = dataset
    where = {'raw': raw, 'references': references, 'maps': tmp_path, 'out': tmp_path / 'out'}
    assert main(['train', *(argument.format(**where) for argument in arguments)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / 'out').exists()


def test_references_of_another_scheme_are_refused_with_a_list(tmp_path, capsys):
    raw, references = write_dataset(tmp_path)
    for subject in ('sub-1', 'sub-2'):
        tissues = (labels() > 0).astype(np.int16)
        save(references, subject, 'desc-aparcaseg_dseg', tissues, AFFINE)
    command = ['train', str(tmp_path / 'out'), '--images', str(raw), *SMALL]
    assert main([*command, '--reference', f'fs={references}', '--contrast', 'T2w', 'T1w']) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert '3 of 4 scans cannot be used: ' in line
    assert line.count('tissue classes') == 3
