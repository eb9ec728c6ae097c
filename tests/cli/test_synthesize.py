"""``synthseg synthesize``: the picture of the steps, and intensities from priors."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from synthseg_bids.cli.main import main
from synthseg_bids.labels import generation_labels, unsided_classes
from synthseg_bids.reports.figures import generation_steps
from synthseg_bids.synth.generator import STEPS
from synthseg_bids.synth.label_maps import load_label_map, synthesize
from synthseg_bids.synth.presets import MIDL2020


@pytest.fixture
def label_map(tmp_path):
    # larger than the deformation moves it
    labels = np.zeros((64, 64, 64), np.int16)
    labels[2:62, 2:62, 2:62] = 24
    labels[8:32, 8:56, 8:56], labels[32:56, 8:56, 8:56] = 2, 42
    path = tmp_path / 'map.nii.gz'
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    return path


def run(label_map, out, *more):
    fixed = ['--size', '0', '--preset', 'midl2020', '--device', 'cpu', '--seed', '3']
    return main(['synthesize', str(label_map), str(out), *fixed, *map(str, more)])


def test_steps_are_drawn_and_change_nothing(label_map, tmp_path):
    assert run(label_map, tmp_path / 'plain', '-n', 2) == 0
    assert run(label_map, tmp_path / 'steps', '-n', 2, '--steps') == 0
    for number in (0, 1):
        name = f'synth-{number:04d}_image.nii.gz'
        plain, stepped = (nib.load(tmp_path / kind / name) for kind in ('plain', 'steps'))
        np.testing.assert_array_equal(plain.get_fdata(), stepped.get_fdata())
        picture = imread(tmp_path / 'steps' / f'synth-{number:04d}_steps.png')[..., :3]
        colored = np.ptp(picture, axis=-1).max(0) > 0.1
        columns = np.flatnonzero(colored) / len(colored)
        # only the labels, in the first of five columns, have colours
        assert columns.max() < 0.22
    assert not [*(tmp_path / 'plain').glob('*.png')]


def test_each_step_follows_from_the_one_before(label_map):
    seen = {}
    source = load_label_map(label_map)
    image, target, _ = synthesize(
        source, MIDL2020, 5, lambda name, result: seen.update({name: result.clone()})
    )
    assert tuple(seen) == STEPS
    channel = torch.tensor([label.target for label in generation_labels()])
    channels = torch.tensor([0, *sorted({int(v) for v in channel if v})])
    assert torch.equal(channel[seen['labels'].long()], channels[target.long()])
    assert seen['gaussians'].std() > seen['blur'].std()
    ratio = (seen['bias field'] / seen['blur']).log()
    assert ratio.std() > 0.05
    assert ratio.diff(dim=0).abs().max() < 0.5
    assert torch.equal(seen['final'], image)


def test_labels_may_be_finer_than_the_image(tmp_path):
    labels = np.zeros((8, 12, 16), np.uint8)
    labels[2:6, 2:10, 2:14] = 1
    generation_steps({'labels': labels, 'final': np.ones((4, 6, 8))}, tmp_path / 'steps.png')
    assert imread(tmp_path / 'steps.png').std() > 0.05


@pytest.fixture
def priors(tmp_path):
    """Made by hand: in T1w the class of label 2 is bright, in T2w dark; no spread."""
    labels, classes = [label.index for label in generation_labels()], unsided_classes()
    contrasts = {}
    for contrast, white in (('T1w', 0.9), ('T2w', 0.2)):
        levels = dict.fromkeys(sorted({*classes}), 0.5) | {classes[labels.index(2)]: white}
        flat = {'std': {'mean': 0, 'sd': 0}}
        contrasts[contrast] = {
            'classes': [
                {'class': number, 'mean': {'mean': level, 'sd': 0}, **flat}
                for number, level in levels.items()
            ]
        }
    from synthseg_bids.training.priors import FORMAT

    path = tmp_path / 'priors.json'
    path.write_text(json.dumps({'format': FORMAT, 'contrasts': contrasts}))
    return path


@pytest.mark.parametrize(('contrast', 'brighter'), [('T1w', True), ('T2w', False)])
def test_intensities_come_from_priors(label_map, tmp_path, priors, contrast, brighter):
    assert run(label_map, tmp_path, '--priors', priors, '--contrast', contrast) == 0
    image, labels = (
        nib.load(tmp_path / f'synth-0000_{kind}.nii.gz').get_fdata() for kind in ('image', 'dseg')
    )
    assert (np.median(image[labels == 2]) > np.median(image[labels == 24])) is np.bool_(brighter)


def test_contrasts_that_cannot_be_had(label_map, tmp_path, priors, capsys):
    assert run(label_map, tmp_path, '--contrast', 'T1w') == 1
    assert '--contrast: only with --priors' in capsys.readouterr().err
    assert run(label_map, tmp_path, '--priors', priors, '--contrast', 'PDw') == 1
    assert f'{Path(priors)}: holds no PDw; there are: T1w, T2w' in capsys.readouterr().err
