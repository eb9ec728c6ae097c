from __future__ import annotations

import json
import shutil

import pytest
import torch

from synthseg_bids.models.card import ModelCard, ModelFileError, save_model
from synthseg_bids.models.registry import load_model, model_path
from synthseg_bids.models.unet import NetworkConfig, UNet3D


@pytest.fixture
def model(tmp_path):
    config = NetworkConfig(features=2, levels=2)
    network, path = UNet3D(config), tmp_path / 'a.safetensors'
    save_model(path, network, ModelCard('a', config, spacing_mm=2.0, crop_mm=(160, 192, 160)))
    return network, path


def test_round_trip(model):
    network, path = model
    loaded, card = load_model(path)
    assert card.labels[:3] == (0, 2, 3)
    assert card.crop_mm == (160, 192, 160)
    x = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(loaded(x), network.eval()(x), atol=2e-3, rtol=2e-3)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_numbers_too_large_for_half_precision_are_kept(tmp_path):
    network = UNet3D(NetworkConfig(features=2, levels=2))
    network.state_dict()['down.0.norm.running_var'].fill_(1e5)
    save_model(tmp_path / 'a.safetensors', network, ModelCard('a', network.config, 1.0))
    loaded, _ = load_model(tmp_path / 'a.safetensors')
    assert (loaded.state_dict()['down.0.norm.running_var'] == 1e5).all()


def test_a_changed_file_is_refused(model):
    path = model[1]
    path.write_bytes(path.read_bytes()[:-1] + b'x')
    with pytest.raises(ModelFileError, match='checksum differs'):
        load_model(path)


def test_weights_of_another_network_are_refused(model, tmp_path):
    card = json.loads((tmp_path / 'a.json').read_text())
    card['network']['features'] = 4
    (tmp_path / 'a.json').write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match='not the weights its card describes'):
        load_model(model[1])


def test_missing_files(model, tmp_path):
    with pytest.raises(ModelFileError, match='no such model'):
        load_model('nowhere')
    shutil.copy(model[1], tmp_path / 'b.safetensors')
    with pytest.raises(ModelFileError, match=r'b\.json: model card is missing'):
        load_model(tmp_path / 'b.safetensors')


def test_more_models_by_name(tiny_model, tmp_path, monkeypatch):
    with pytest.raises(ModelFileError, match='tiny: no such model'):
        model_path('tiny')
    assert model_path('tiny', tiny_model.parent) == tiny_model
    monkeypatch.setenv('SYNTHSEG_BIDS_MODELS', str(tiny_model.parent))
    assert model_path('tiny') == tiny_model
    with pytest.raises(ModelFileError, match='no such folder of models'):
        model_path('tiny', tmp_path / 'none')
