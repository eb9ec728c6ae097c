from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import write_heads

from synthseg_bids.cli.main import main
from synthseg_bids.errors import UsageError
from synthseg_bids.labels import unsided_classes
from synthseg_bids.models.unet import NetworkConfig
from synthseg_bids.synth.intensity import ContrastPriors, IntensityConfig
from synthseg_bids.synth.label_maps import LabelMapError, find_label_maps, generate, load_label_map
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.training.samples import age_shares, merged_channels
from synthseg_bids.training.trainer import (
    CheckpointError,
    Trainer,
    TrainingConfig,
    learning_rate,
)

CONFIG = TrainingConfig(
    network=NetworkConfig(features=2, levels=2, norm='instance', norm_placement='conv'),
    generator=replace(PRESETS['synthseg-bids'], size=(16, 16, 16), crop_jitter=2),
    steps=6,
    warmup=2,
    epoch_steps=2,
)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three small heads of boxes."""
    return write_heads(tmp_path)


@pytest.fixture
def maps(folder):
    return [load_label_map(path) for path in find_label_maps(folder)]


def finished(trainer):
    trainer.run(lambda *_: None)
    return trainer


@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_resuming_is_exact(maps, tmp_path, optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    whole = finished(Trainer(config, maps))
    part = Trainer(config, maps)
    for _ in range(3):
        part.train_step()
    part.save(tmp_path / 'c.pt')
    resumed = Trainer(config, maps)
    resumed.resume(tmp_path / 'c.pt')
    finished(resumed)
    assert resumed.step == whole.step == 6
    for model in ('network', 'average'):
        pairs = zip(
            getattr(whole, model).parameters(), getattr(resumed, model).parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_training_lowers_the_loss(maps):
    config = replace(CONFIG, steps=100, warmup=5)
    trainer = Trainer(config, maps)
    losses = [float(trainer.train_step()) for _ in range(100)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_batch_of_samples_is_as_good_as_singles(maps):
    trainer = Trainer(replace(CONFIG, batch_size=2), maps)
    singles = [trainer.sample(i)[0] for i in range(2)]
    alone = torch.cat([trainer.network(image[None, None]) for image in singles])
    together = trainer.network(torch.stack(singles)[:, None])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(trainer.train_step())


def test_a_batch_has_one_contrast_of_the_priors(maps, monkeypatch):
    rows = ((100.0, 10.0),) * len(set(unsided_classes()))
    priors = tuple(ContrastPriors(name, rows, rows) for name in ('T1w', 'T2w'))
    generator = replace(CONFIG.generator, intensity=IntensityConfig(priors=priors))
    seen = []

    def record(label_map, config, source):
        seen.append([own.contrast for own in config.intensity.priors])
        return generate(label_map, config, source)

    monkeypatch.setattr('synthseg_bids.training.trainer.generate', record)
    trainer = Trainer(replace(CONFIG, generator=generator, batch_size=2, steps=12), maps)
    for _ in range(12):
        trainer.train_step()
    assert seen[::2] == seen[1::2]
    assert {contrast for (contrast,) in seen} == {'T1w', 'T2w'}
    # A run that is resumed goes on with the same contrasts.
    trainer.step, first = 3, len(seen)
    trainer.sample(99)
    assert seen[first] == seen[6]


def test_wl2_comes_first(maps):
    trainer = Trainer(replace(CONFIG, wl2_steps=1), maps)
    # wl2 starts near margin**2, Dice with cross-entropy near 1 + log(33)
    assert float(trainer.train_step()) > 15
    assert float(trainer.train_step()) < 15


def test_validation_uses_the_held_out_maps(maps):
    trainer = Trainer(CONFIG, maps[:2], maps[2:])
    scores = trainer.validate()
    assert set(scores) == {'midl2020', 'synthseg2023'}
    assert scores == trainer.validate()
    card = trainer.card('x')
    assert card.training['label_maps'] == ['map-0_dseg.nii.gz', 'map-1_dseg.nii.gz']
    assert card.validation['label_maps'] == ['map-2_dseg.nii.gz']
    assert card.crop_mm == (16, 16, 16)


def test_another_architecture_is_refused(maps, tmp_path):
    Trainer(CONFIG, maps).save(tmp_path / 'c.pt')
    other = replace(CONFIG, network=replace(CONFIG.network, features=4))
    with pytest.raises(CheckpointError, match='asked for'):
        Trainer(other, maps).resume(tmp_path / 'c.pt')
    (tmp_path / 'broken.pt').write_bytes(b'no')
    with pytest.raises(CheckpointError, match='not a checkpoint'):
        Trainer(CONFIG, maps).resume(tmp_path / 'broken.pt')


def test_start_from_a_trained_network(maps):
    trained = finished(Trainer(CONFIG, maps))
    trainer = Trainer(replace(CONFIG, seed=1), maps)
    trainer.start_from((trained.average, trained.card('first')))
    for model in (trainer.network, trainer.average):
        pairs = zip(model.parameters(), trained.average.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    other = replace(CONFIG, network=replace(CONFIG.network, features=4))
    with pytest.raises(CheckpointError, match='cannot average'):
        trainer.start_from(
            (trained.average, trained.card('first')),
            (Trainer(other, maps).average, trained.card('second')),
        )
    with pytest.raises(CheckpointError, match='cannot start from'):
        Trainer(other, maps).start_from((trained.average, trained.card('first')))


def test_start_from_the_average_of_networks(maps):
    trained = [finished(Trainer(replace(CONFIG, seed=seed), maps)) for seed in (1, 2)]
    trainer = Trainer(CONFIG, maps)
    cards = [one.card(name) for one, name in zip(trained, ('first', 'second'), strict=True)]
    trainer.start_from(*zip((one.average for one in trained), cards, strict=True))
    found, *others = (one.likelihood.weight for one in (
        trainer.network, *(one.average for one in trained)
    ))  # fmt: skip
    torch.testing.assert_close(found, sum(others) / 2)
    assert trainer.started_from['name'] == 'first + second'


def test_the_card_counts_the_steps_before(maps, tmp_path):
    trainer = Trainer(replace(CONFIG, seed=1), maps)
    card = Trainer(CONFIG, maps).card('first')
    before = replace(card, sha256='abc', training={'steps': 30, 'started_from': {'steps': 12}})
    trainer.start_from((trainer.average, before))
    trainer.save(tmp_path / 'c.pt')
    resumed = Trainer(replace(CONFIG, seed=1), maps)
    resumed.resume(tmp_path / 'c.pt')
    resumed.step = 5
    second = resumed.card('second')
    assert second.training['started_from'] == {'name': 'first', 'sha256': 'abc', 'steps': 42}
    assert second.total_steps == 47
    assert 'started_from' not in card.training


def test_another_optimiser_is_refused(maps, tmp_path):
    Trainer(CONFIG, maps).save(tmp_path / 'c.pt')
    other = replace(CONFIG, optimizer='muon')
    with pytest.raises(CheckpointError, match='trained with adamw, asked for muon'):
        Trainer(other, maps).resume(tmp_path / 'c.pt')


def test_learning_rate_ends_at_zero():
    rates = [learning_rate(CONFIG, step) for step in range(CONFIG.steps + 1)]
    assert max(rates) == CONFIG.learning_rate
    assert rates[-1] == 0


def test_command_line(folder, tmp_path, capsys):
    out = tmp_path / 'run'
    command = ['train', str(folder), str(out), '--validate-on', 'map-2', '--steps', '2']
    command += ['--features', '2', '--levels', '2', '--size', '16', '16', '16']
    command += ['--epoch-steps', '1', '--device', 'cpu']
    assert main(command) == 0
    assert {p.name for p in out.iterdir()} == {
        'checkpoint.pt', 'model.safetensors', 'model.json', 'learning_curve.tsv',
        'learning_curve.png',
    }  # fmt: skip
    assert len((out / 'learning_curve.tsv').read_text().splitlines()) == 3
    again = [*command, '--start-from', str(out / 'model.safetensors')]
    again[2] = str(tmp_path / 'again')
    assert main(again) == 0
    command[command.index('--steps') + 1] = '3'
    assert main(command) == 0
    assert len((out / 'learning_curve.tsv').read_text().splitlines()) == 4


def test_synthesize_command(folder, tmp_path):
    arguments = [str(folder), '-n', '2', '--size', '16', '--device', 'cpu', '--seed', '5']
    for out in ('a', 'b'):
        assert main(['synthesize', arguments[0], str(tmp_path / out), *arguments[1:]]) == 0
    image = nib.load(tmp_path / 'a' / 'synth-0001_image.nii.gz')
    labels = nib.load(tmp_path / 'a' / 'synth-0001_dseg.nii.gz')
    assert image.shape == labels.shape == (16, 16, 16)
    np.testing.assert_array_equal(image.affine, labels.affine)
    again = nib.load(tmp_path / 'b' / 'synth-0001_image.nii.gz')
    np.testing.assert_array_equal(image.get_fdata(), again.get_fdata())
    other = nib.load(tmp_path / 'a' / 'synth-0000_image.nii.gz')
    assert not np.array_equal(image.get_fdata(), other.get_fdata())


def test_maps_of_several_sizes_make_a_batch(folder):
    for i, shape in enumerate([(20, 14, 20), (14, 20, 20)]):
        data = np.full(shape, 24, np.int16)
        data[4:10, 4:10, 4:10] = 2
        nib.save(nib.Nifti1Image(data, np.diag([1, 1, 1, 1])), folder / f'map-{i}_dseg.nii.gz')
    size = (16, 16, 16)
    maps = [load_label_map(path, size) for path in find_label_maps(folder)]
    assert {tuple(one.indices.shape) for one in maps} == {(20, 16, 20), (16, 20, 20), (24, 24, 24)}
    assert maps[0].affine[:3, 3].tolist() == [0, -1, 0]
    assert maps[0].centre == (6.5, 7.5, 6.5)
    trainer = Trainer(replace(CONFIG, batch_size=4), maps)
    assert torch.isfinite(trainer.train_step())


def test_maps_must_be_isotropic_and_alike(folder, tmp_path):
    path = folder / 'map-0_dseg.nii.gz'
    data = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(data, np.diag([1, 1, 4, 1])), path)
    with pytest.raises(LabelMapError, match='voxels of 1 x 1 x 4 mm; resample'):
        load_label_map(path)
    nib.save(nib.Nifti1Image(data, np.diag([2, 2, 2, 1])), path)
    maps = [load_label_map(path) for path in find_label_maps(folder)]
    with pytest.raises(UsageError, match='label maps of 1, 2 mm'):
        Trainer(CONFIG, maps)


def test_crops_of_one_voxel_at_the_deepest_level_are_refused():
    with pytest.raises(UsageError, match='crops of 16 x 16 x 16 voxels: one voxel at the deepest'):
        replace(CONFIG, network=replace(CONFIG.network, levels=5))


def test_a_run_that_is_ended_by_its_last_step_has_its_last_epoch(maps):
    epochs = []

    def end(trainer, _):
        if trainer.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(CONFIG, maps).run(lambda _, progress: epochs.append(progress.step), end)
    assert epochs == [2, 4]


def test_bad_label_maps_are_named(tmp_path, capsys):
    with pytest.raises(LabelMapError, match='no label maps'):
        find_label_maps(tmp_path)
    bad = tmp_path / 'bad.nii.gz'
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 999, np.int16), np.eye(4)), bad)
    assert main(['synthesize', str(bad), str(tmp_path)]) == 1
    assert 'bad.nii.gz: labels [999] are not generation labels' in capsys.readouterr().err


def test_label_maps_of_a_derivatives_data_set(folder, tmp_path):
    anat = tmp_path / 'derivatives' / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    target = anat / 'sub-01_desc-aseg_dseg.nii.gz'
    (folder / 'map-0_dseg.nii.gz').rename(target)
    assert find_label_maps(tmp_path / 'derivatives') == [target]


def with_sidecar(folder, text):
    (folder / 'map-0_dseg.json').write_text(text, encoding='utf-8')
    return load_label_map(folder / 'map-0_dseg.nii.gz')


def test_a_sidecar_says_age_and_what_a_map_does_not_distinguish(folder):
    said = {'AgeGroup': 'infant', 'MergedLabels': [[8, 7], [47, 46]]}
    found = with_sidecar(folder, json.dumps(said))
    assert (found.age_group, found.merged) == ('infant', ((8, 7), (47, 46)))
    other = load_label_map(folder / 'map-1_dseg.nii.gz')
    assert (other.age_group, other.merged) == ('adult', ())


@pytest.mark.parametrize(
    'text', ['{', '[]', '{"MergedLabels": [[8, 1000]]}', '{"MergedLabels": [[8]]}']
)
def test_damaged_sidecars_are_named(folder, text):
    with pytest.raises(LabelMapError, match=r'map-0_dseg\.json: not a sidecar'):
        with_sidecar(folder, text)


def test_age_groups_are_drawn_as_often_as_asked(folder, maps):
    maps = [*maps, replace(maps[0], age_group='infant')]
    shares = age_shares(maps, {'adult': 0.6, 'infant': 0.4, 'old': 3})
    assert shares.tolist() == pytest.approx([0.2, 0.2, 0.2, 0.4])
    with pytest.raises(UsageError, match='all have a weight of 0'):
        age_shares(maps, {'adult': 0, 'infant': 0})


def test_mirrored_scans_merge_the_labels_of_the_other_side(maps):
    one = replace(maps[0], merged=((8, 7),))
    assert merged_channels(one, CONFIG.generator, flip=False) == [[6, 5]]
    assert merged_channels(one, CONFIG.generator, flip=True) == [[24, 23]]


def test_lesions_are_a_label_of_networks_that_are_trained_with_them(folder, tmp_path):
    out = tmp_path / 'out'
    options = '--features 2 --levels 2 --steps 2 --epoch-steps 2 --size 16 16 16 --device cpu'
    assert main(['train', str(folder), str(out), '--lesions', 'label', *options.split()]) == 0
    card = json.loads((out / 'model.json').read_text())
    assert (card['network']['out_channels'], card['labels'][-1]) == (34, 77)
