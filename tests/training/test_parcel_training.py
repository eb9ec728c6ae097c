from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from parcel_brain import AFFINE, brain, write_brain

from synthseg_bids.cli.main import main
from synthseg_bids.inference.parcels import Parcellator
from synthseg_bids.labels import LabelSchemeError, fold_reference
from synthseg_bids.parcels import PARCEL_NUMBERS
from synthseg_bids.training.parcel_maps import RADIX, load_parcel_map
from synthseg_bids.training.parcel_samples import (
    ParcelSampleConfig,
    cortex_points,
    draw_parcel_sample,
    favour,
    make_parcel_sample,
    parcel_input,
)
from synthseg_bids.training.parcel_trainer import (
    PARCEL_NETWORK,
    ParcelTrainer,
    ParcelTrainingConfig,
)

SAMPLES = ParcelSampleConfig(points=200)
CONFIG = ParcelTrainingConfig(
    network=replace(PARCEL_NETWORK, features=2, output_features=0, levels=2, encoder_convs=1),
    samples=SAMPLES,
    steps=4,
    epoch_steps=2,
)


def write_segmentation(folder, shift=(0, 0, 0), name='one_dseg_a.nii.gz'):
    """Write the segmentation labels of the brain, moved by voxels in an array of another size."""
    labels = np.pad(fold_reference(brain()), 3)
    labels = np.roll(labels, shift, (0, 1, 2))
    affine = AFFINE.copy()
    affine[:3, 3] = -3
    path = folder / name
    nib.Nifti1Image(labels.astype(np.int16), affine).to_filename(path)
    return path


def test_codes_of_a_map_and_of_a_segmentation(tmp_path):
    same, moved = (
        write_segmentation(tmp_path, shift, f'one_dseg_{shift[1]}.nii.gz')
        for shift in ((0, 0, 0), (0, 1, 0))
    )
    person = load_parcel_map(write_brain(tmp_path), [same, moved])
    for side in ('left', 'right'):
        own, equal, other = person.hemispheres[side]
        assert torch.equal(own, equal)
        cortex = own // RADIX == 1
        numbers = own[cortex] % RADIX
        assert set(numbers.tolist()) == {*range(1, RADIX)}
        # Parcels are stripes along y: from back to front they are ascending.
        assert (torch.where(own % RADIX > 0, own % RADIX, 0).amax((0, 2)).diff()[20:60] >= 0).all()
        moved_cortex = other // RADIX == 1
        assert int(moved_cortex.sum()) == int(cortex.sum())
        both = moved_cortex & cortex
        assert torch.equal(other[both], own[both])
        # Cortex of the segmentation alone has the parcel of the nearest cortex.
        assert (other[moved_cortex] % RADIX > 0).all()
    assert torch.equal(person.hemispheres['left'][0], person.hemispheres['right'][0])


def test_orientation_does_not_matter(tmp_path):
    turned = np.diag([-1.0, 1.0, -1.0, 1.0])
    one, other = (
        load_parcel_map(write_brain(tmp_path, name, affine))
        for name, affine in (('one', AFFINE), ('two', turned))
    )
    assert torch.equal(one.hemispheres['left'][0], other.hemispheres['left'][0])


def test_maps_without_parcels_are_refused(tmp_path):
    path = write_segmentation(tmp_path)
    with pytest.raises(LabelSchemeError, match=r'0 of the 68 parcels .*; give label maps'):
        load_parcel_map(path)


@pytest.fixture
def person(tmp_path):
    return load_parcel_map(write_brain(tmp_path), [write_segmentation(tmp_path)])


def test_points_hit_their_parcels(person):
    """The parcels are stripes along y: positions tell them."""
    codes = person.hemispheres['left'][0]
    _, grid = parcel_input(codes, 4)
    places, target = cortex_points(codes, grid, 0, torch.Generator())
    assert len(target) == int((codes // RADIX == 1).sum())
    assert int(target.max()) == len(PARCEL_NUMBERS) - 1
    order = places[1].argsort(stable=True)
    assert (target[order].diff() >= 0).all()
    # Two millimetres a voxel.
    assert float(places[1].max() - places[1].min()) == pytest.approx((52 - 1) / 2)


def test_a_draw_makes_the_same_sample_again(person):
    draw = draw_parcel_sample(SAMPLES, person, torch.Generator().manual_seed(5))
    one, other = (
        make_parcel_sample(SAMPLES, person, draw, 4, torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.target, other.target)
    assert len(one.target) == SAMPLES.points
    classes = one.maps[0, :5]
    assert classes.min() >= 0
    assert classes.sum(0).max() <= 1 + 1e-5


def test_a_field_of_no_strength_changes_nothing():
    classes = torch.rand(5, 8, 8, 8, generator=torch.Generator().manual_seed(0)) / 5
    same = favour(classes, torch.zeros(1), torch.ones(1) * 8, torch.Generator().manual_seed(0))
    assert torch.allclose(same, classes, atol=1e-6)
    other = favour(classes, torch.ones(1), torch.ones(1) * 8, torch.Generator().manual_seed(0))
    assert (other - classes).abs().max() > 0.05


def test_training_resumes_exactly(person, tmp_path):
    whole, part, resumed = (ParcelTrainer(CONFIG, [person]) for _ in range(3))
    whole.run(lambda *_: None)
    for _ in range(2):
        part.train_step()
    part.save(tmp_path / 'c.pt')
    resumed.resume(tmp_path / 'c.pt')
    resumed.run(lambda *_: None)
    for key, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[key]), key


def test_command_trains_a_network_of_parcels(tmp_path):
    maps, others, out = tmp_path / 'maps', tmp_path / 'others', tmp_path / 'out'
    maps.mkdir()
    others.mkdir()
    write_brain(maps, 'one')
    write_brain(maps, 'two')
    write_segmentation(others)
    command = ['train-parcels', str(maps), str(out), '--segmentations', str(others)]
    command += ['--validate-on', 'two', '--epoch-steps', '1', '--device', 'cpu']
    assert main([*command, '--steps', '1']) == 0
    assert main([*command, '--steps', '2']) == 0
    card = json.loads((out / 'model.json').read_text())
    assert card['training']['parcel_maps'] == ['one_dseg.nii.gz']
    assert card['training']['steps'] == 2
    assert 0 <= card['validation']['dice_maps'] <= 1
    assert 'generator' not in card['training']['config']
    assert Parcellator(out / 'model.safetensors').card.labels == PARCEL_NUMBERS
    assert main(['train-parcels', str(maps), str(out), '--validate-on', 'dseg']) == 1
