from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from heads import write_heads
from safetensors.torch import load_file

from synthseg_bids.cli.main import main
from synthseg_bids.models.card import read_card, save_model
from synthseg_bids.models.registry import load_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.synth.label_maps import load_label_map
from synthseg_bids.training.calibration import (
    averaged,
    calibration_error,
    fit_bias,
    fit_temperature,
    log_loss,
    set_calibration,
)
from synthseg_bids.training.trainer import Trainer, TrainingConfig


@pytest.fixture
def calibrated() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and targets that are drawn with the probabilities they stand for."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(20_000, 5)
    return logits, torch.multinomial(logits.softmax(-1), 1)[:, 0]


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.5])
def test_finds_the_temperature_that_logits_were_multiplied_by(calibrated, temperature):
    logits, target = calibrated
    found = fit_temperature([temperature * logits], target)
    assert found == pytest.approx(temperature, rel=0.03)


def test_averaged_passes_are_fitted_together(calibrated):
    logits, target = calibrated
    passes = [logits + torch.randn_like(logits), logits + torch.randn_like(logits)]
    best = fit_temperature(passes, target)
    losses = [log_loss(averaged(passes, best * factor), target) for factor in (0.9, 1, 1.1)]
    assert losses[1] == min(losses)
    # An average is less certain than either pass.
    assert best < fit_temperature(passes[:1], target)


def test_finds_the_biases_that_logits_lack(calibrated):
    logits, target = calibrated
    lacking = torch.tensor([0.0, 1.0, 1.0, -0.5, 0.3])
    mirror = torch.tensor([0, 2, 1, 3, 4])
    found = fit_bias([logits - lacking], target, 1.0, mirror)
    torch.testing.assert_close(found, lacking, atol=0.06, rtol=0)
    assert found[1] == found[2]
    volume = averaged([logits - lacking], 1.0, found).sum(0)
    torch.testing.assert_close(volume[3:], torch.bincount(target)[3:].float(), rtol=0.01, atol=0)


def test_rare_and_fixed_channels_have_no_bias(calibrated):
    logits, target = calibrated
    target = target.masked_fill(target == 3, 0)
    target[:90] = 3
    found = fit_bias([logits], target, 1.0, torch.arange(5), fixed=[4])
    assert found[[0, 3, 4]].tolist() == [0, 0, 0]
    assert (found[[1, 2]] != 0).all()


def test_calibration_error(calibrated):
    logits, target = calibrated
    assert calibration_error(logits.softmax(-1), target) < 0.01
    assert calibration_error((3 * logits).softmax(-1), target) > 0.05
    certain = torch.eye(5)[[0, 1, 2, 3]]
    assert calibration_error(certain, torch.tensor([0, 1, 0, 0])) == pytest.approx(0.5)


def test_the_temperature_is_in_the_output_layer():
    network = UNet3D(NetworkConfig(5, 2, levels=2)).eval()
    x = torch.rand(1, 1, 8, 8, 8)
    before = network(x)
    set_calibration(network, 2.0)
    torch.testing.assert_close(network(x), before / 2)
    bias = torch.arange(5.0)
    set_calibration(network, 1.0, bias)
    torch.testing.assert_close(network(x), before / 2 + bias[:, None, None, None])


@pytest.fixture
def case(tmp_path) -> tuple[Path, Path]:
    """Return label maps of three heads, and a model trained on one of them for a few steps."""
    maps = write_heads(tmp_path)
    network = NetworkConfig(
        features=4, levels=2, norm='instance', norm_placement='conv', sub_voxels=2
    )
    config = TrainingConfig(network, steps=60, learning_rate=0.05, warmup=1)
    trainer = Trainer(config, [load_label_map(maps / 'map-0_dseg.nii.gz')])
    trainer.run(lambda *_: None)
    # Surer than it may be.
    set_calibration(trainer.average, 0.1)
    save_model(tmp_path / 'model.safetensors', trainer.average, trainer.card('model'))
    return maps, tmp_path / 'model.safetensors'


def calibrate(maps: Path, model: Path, out: Path, fit: str, check: str, *more: str) -> int:
    return main([
        'calibrate', str(model), str(maps), str(out), '--scans', '1', '--device', 'cpu',
        '--fit-on', fit, '--check-on', check, *more,
    ])  # fmt: skip


def test_calibrate_writes_a_model_whose_posteriors_are_probabilities(case, tmp_path):
    maps, model = case
    out = tmp_path / 'calibrated.safetensors'
    assert calibrate(maps, model, out, 'map-1', 'map-2') == 0
    facts = read_card(out).validation['calibration']
    assert facts['calibration_error'] < facts['calibration_error_before']
    assert facts['temperature'] > 1.2
    assert facts['fitted_on'] == ['map-1_dseg.nii.gz']
    before, after = (load_model(path)[0].likelihood.bias for path in (model, out))
    bias = torch.tensor([*facts['bias'].values()]).repeat(8)
    expected = before / facts['temperature'] + bias
    torch.testing.assert_close(after, expected, atol=1e-3, rtol=1e-2)


def test_published_weights_keep_their_digits(case, tmp_path):
    maps, model = case
    network, card = load_model(model)
    network.likelihood.bias.data += 1e-5
    save_model(model, network, card, torch.float32)
    out = tmp_path / 'calibrated.safetensors'
    assert calibrate(maps, model, out, 'map-1', 'map-2') == 0
    assert {value.dtype for value in load_file(out).values()} == {torch.float32}


def test_the_error_is_not_measured_on_maps_that_were_seen(case, tmp_path, capsys):
    maps, model = case
    out = tmp_path / 'calibrated.safetensors'
    assert calibrate(maps, model, out, 'map-1', 'map-0') == 1
    assert 'model was trained on it' in capsys.readouterr().err
    assert calibrate(maps, model, out, 'map-1', 'map-1') == 1
    assert 'name different ones' in capsys.readouterr().err
    assert not out.exists()


def test_labels_that_a_map_does_not_distinguish_have_no_bias(case, tmp_path):
    maps, model = case
    out = tmp_path / 'calibrated.safetensors'
    assert calibrate(maps, model, out, 'map-1', 'map-2') == 0
    bias = read_card(out).validation['calibration']['bias']
    known = {label for label, value in bias.items() if value}
    assert {'2', '3', '41', '42'} <= known
    (maps / 'map-1_dseg.json').write_text(json.dumps({'MergedLabels': [[2, 3]]}))
    assert calibrate(maps, model, out, 'map-1', 'map-2') == 0
    bias = read_card(out).validation['calibration']['bias']
    assert {label for label, value in bias.items() if value} == known - {'2', '3', '41', '42'}


def test_maps_of_the_training_may_be_fitted_on_and_the_refinement_be_set(case, tmp_path):
    maps, model = case
    out = tmp_path / 'calibrated.safetensors'
    assert calibrate(maps, model, out, 'map-0', 'map-1', '--intensity-weight', '0.5') == 0
    assert read_card(out).intensity_weight == 0.5
