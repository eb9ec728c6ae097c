"""Published weights: their layouts, what is refused, and what comes out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from published import dipy_state, random_scan, random_weights, write_h5

from synthseg_bids import Segmenter
from synthseg_bids.cli.main import main
from synthseg_bids.labels import mirror_channels, segmentation_labels
from synthseg_bids.models.card import ModelFileError, save_model, sha256
from synthseg_bids.models.published import import_model, official_models
from synthseg_bids.models.registry import load_model, model_path
from synthseg_bids.models.unet import NetworkConfig

pytest.importorskip('h5py')
SMALL = NetworkConfig(features=2)
LABELS = [label.index for label in segmentation_labels()]
CSF = LABELS.index(24)


@pytest.fixture(scope='module')
def weights():
    return random_weights(features=2, channels=33)


@pytest.fixture(scope='module')
def recorded():
    """What Keras 2.15 made of these weights; ``make test-parity`` compares it anew."""
    path = Path(__file__).parents[1] / 'data' / 'keras_posteriors.npz'
    return np.load(path)['posteriors']


@pytest.fixture(autouse=True)
def no_installed_weights(monkeypatch, tmp_path):
    monkeypatch.delenv('FREESURFER_HOME', raising=False)
    monkeypatch.setenv('DIPY_HOME', str(tmp_path / 'dipy'))


def posteriors(network):
    scan = random_scan((32, 16, 16))
    with torch.inference_mode():
        found = network(torch.from_numpy(scan)[None, None]).softmax(1)[0].numpy()
    return found[:, ::5, ::3, ::3]


@pytest.mark.parametrize(
    ('prefix', 'inner_suffix'), [('', ''), ('model_weights', ''), ('', '_1')], ids=str
)
def test_keras_layouts_give_the_posteriors_of_keras(
    tmp_path, weights, recorded, prefix, inner_suffix
):
    path = write_h5(tmp_path / 'w.h5', weights, prefix, inner_suffix)
    network, card = import_model(path, SMALL)
    assert np.abs(posteriors(network) - recorded).max() < 1e-5
    assert len(np.unique(recorded.argmax(0))) > 5
    assert card.labels == tuple(LABELS)
    assert (card.spacing_mm, card.crop_mm) == (1.0, None)
    assert card.name == 'synthseg_2.0'
    assert card.training == {
        'source': 'w.h5',
        'sha256': sha256(path),
        'release': 'SynthSeg 2.0',
        'labels_not_segmented': [],
    }


def test_dipy_layout_gives_the_posteriors_of_keras(tmp_path, weights, recorded):
    torch.save(dipy_state(weights), tmp_path / 'w.pth')
    network, card = import_model(tmp_path / 'w.pth', SMALL)
    assert np.abs(posteriors(network) - recorded).max() < 1e-5
    assert card.name == 'synthseg_2.0'


def test_release_1_is_release_2_without_the_fluid_around_the_brain(tmp_path, weights, recorded):
    without = {
        name: np.delete(value, CSF, -1) if 'likelihood' in name else value
        for name, value in weights.items()
    }
    network, card = import_model(write_h5(tmp_path / 'w.h5', without), SMALL)
    found = posteriors(network)
    expected = np.delete(recorded, CSF, 0)
    assert not found[CSF].any()
    np.testing.assert_allclose(
        np.delete(found, CSF, 0), expected / expected.sum(0), atol=1e-5, rtol=0
    )
    assert card.name == 'synthseg_1.0'
    assert card.training['labels_not_segmented'] == [24]
    assert len(mirror_channels(card.labels)) == network.config.out_channels == 33


def test_saved_in_full_precision(tmp_path, weights):
    network, card = import_model(write_h5(tmp_path / 'w.h5', weights), SMALL)
    for dtype, exact in ((torch.float32, True), (torch.float16, False)):
        save_model(tmp_path / 'w.safetensors', network, card, dtype=dtype)
        loaded, _ = load_model(tmp_path / 'w.safetensors')
        pairs = zip(network.parameters(), loaded.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == exact


def test_other_networks_are_refused(tmp_path, weights):
    def refused(change, message):
        changed = {k: v for k, v in (weights | change).items() if v is not None}
        with pytest.raises(ModelFileError, match=message) as caught:
            import_model(write_h5(tmp_path / 'w.h5', changed), SMALL)
        assert str(caught.value).startswith(f'{tmp_path / "w.h5"}: not the weights of SynthSeg')
        assert '\n' not in str(caught.value)

    refused({'unet_bn_up_2/gamma': None}, r'\(no unet_bn_up_2/gamma\)')
    refused(dict.fromkeys(weights), r'\(no unet_conv_downarm_0_0/kernel\)')
    refused({'unet_likelihood/bias': np.zeros(5)}, '5 output channels instead of 32 or 33')
    refused({'unet_conv_downarm_0_0/kernel': np.zeros((3, 3, 3, 6, 2))}, 'downarm_0_0/kernel is ')
    refused({'unet_conv_downarm_0_0/kernel': np.zeros(2)}, 'downarm_0_0/kernel is ')
    refused({'unet_bn_down_0/beta': np.array([0, np.nan])}, 'bn_down_0/beta holds NaN')
    # Of other layers nothing is asked.
    more = weights | {'unet2_likelihood/bias': np.zeros(5), 'qc_conv/kernel': np.array([np.nan])}
    import_model(write_h5(tmp_path / 'w.h5', more), SMALL)


@pytest.mark.parametrize('suffix', ['.h5', '.pth'])
def test_damaged_files_are_refused(tmp_path, weights, suffix):
    path = tmp_path / f'w{suffix}'
    if suffix == '.h5':
        write_h5(path, weights)
    else:
        torch.save(dipy_state(weights), path)
    content = path.read_bytes()
    pointer = b'version https://git-lfs.github.com/spec/v1\n'
    damaged = [content[: len(content) * part // 8] for part in range(8)]
    for wrong in [*damaged, content[:-1], pointer, b'<!DOCTYPE html>\n<html>']:
        path.write_bytes(wrong)
        with pytest.raises(ModelFileError, match='cannot be read') as caught:
            load_model(path)
        assert str(caught.value).startswith(f'{path}: cannot be read (damaged, incomplete, or ')
        assert str(caught.value).endswith('; copy or download it again')
        assert '\n' not in str(caught.value)


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / 'touched',))

    torch.save({'conv_pred.weight': Evil()}, tmp_path / 'w.pth')
    with pytest.raises(ModelFileError, match='cannot be read'):
        import_model(tmp_path / 'w.pth')
    assert not (tmp_path / 'touched').exists()
    torch.save([1, 2], tmp_path / 'w.pth')
    with pytest.raises(ModelFileError, match='no state dict'):
        import_model(tmp_path / 'w.pth')


def test_h5py_is_asked_for(tmp_path, weights, monkeypatch):
    path = write_h5(tmp_path / 'w.h5', weights)
    monkeypatch.setitem(__import__('sys').modules, 'h5py', None)
    with pytest.raises(ModelFileError, match='pip install h5py'):
        import_model(path, SMALL)


def test_installed_weights_are_found_by_name(tmp_path, weights, monkeypatch):
    with pytest.raises(ModelFileError, match=r'no such model.*FREESURFER_HOME'):
        model_path('synthseg_2.0')
    dipy = tmp_path / 'dipy' / 'synthseg' / 'synthseg_model_weights.pth'
    models = tmp_path / 'freesurfer' / 'models'
    for folder in (dipy.parent, models):
        folder.mkdir(parents=True)
    dipy.touch()
    assert model_path('synthseg_2.0') == model_path('synthseg_model_weights') == dipy
    for name in ('synthseg_1.0', 'synthseg_2.0', 'synthseg_robust_2.0', 'synthseg_qc_2.0'):
        (models / f'{name}.h5').touch()
    monkeypatch.setenv('FREESURFER_HOME', str(models.parent))
    assert set(official_models()) == {'synthseg_1.0', 'synthseg_2.0', 'synthseg_model_weights'}
    assert model_path('synthseg_2.0') == models / 'synthseg_2.0.h5'
    with pytest.raises(ModelFileError, match=r'one of: .*synthseg_1\.0, synthseg_2\.0'):
        model_path('synthseg_robust_2.0')


def test_no_home_is_needed(monkeypatch):
    for name in ('HOME', 'DIPY_HOME'):
        monkeypatch.delenv(name)
    monkeypatch.setattr('os.getuid', lambda: 2**31)
    assert official_models() == {}


def test_a_file_of_another_type_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'model.pt').touch()
    with pytest.raises(ModelFileError, match='no such model'):
        model_path('model.pt')
    with pytest.raises(ModelFileError, match='not published weights'):
        import_model(tmp_path / 'model.pt')


@pytest.mark.slow
@pytest.mark.parametrize('release', ['1.0', '2.0'])
def test_commands(tmp_path, release, capfd, monkeypatch):
    """Import weights of the published size; segment with them, and with the file by its name."""
    models = tmp_path / 'models'
    models.mkdir()
    source = models / f'synthseg_{release}.h5'
    write_h5(source, random_weights(24, 32 if release == '1.0' else 33))
    out = tmp_path / 'out' / 'model.safetensors'
    assert main(['import-weights', str(source), str(out)]) == 0
    card = json.loads(out.with_suffix('.json').read_text())
    assert card['training']['release'] == f'SynthSeg {release}'
    assert str(tmp_path) not in out.with_suffix('.json').read_text()

    scan = tmp_path / 'scan.nii'
    nib.save(nib.Nifti1Image(random_scan((20, 18, 16)), np.eye(4)), scan)
    monkeypatch.setenv('FREESURFER_HOME', str(tmp_path))
    for model, name in ((out, 'a'), (f'synthseg_{release}', 'b')):
        files = [tmp_path / f'{name}{end}' for end in ('.nii', '.tsv', '_posteriors.nii')]
        labels, table, probabilities = map(str, files)
        options = ['--volumes', table, '--posteriors', probabilities, '--device', 'cpu']
        assert main(['segment', str(scan), labels, '--model', str(model), *options]) == 0
    for end in ('.nii', '.tsv', '_posteriors.nii'):
        assert (tmp_path / f'a{end}').read_bytes() == (tmp_path / f'b{end}').read_bytes()
    assert np.isin(nib.load(tmp_path / 'a.nii').dataobj, LABELS).all()
    assert nib.load(tmp_path / 'a_posteriors.nii').shape == (20, 18, 16, 33)
    with open(tmp_path / 'a.tsv', newline='') as stream:
        rows = list(csv.DictReader(stream, delimiter='\t'))
    assert [int(row['index']) for row in rows[:-1]] == LABELS[1:]
    for column in ('volume_mm3', 'n_voxels', 'soft_volume_mm3'):
        found = {row['name']: row[column] for row in rows}
        # Without the fluid around the brain the intracranial volume is not known either.
        assert (found['CSF'] == 'n/a') == (release == '1.0')
        assert (found['Total-Intracranial'] == 'n/a') == (release == '1.0')
    assert float(found['Right-VentralDC']) > 0  # the soft volume
    volumes = Segmenter(out, 'cpu', flip=False)(nib.load(scan)).volumes
    assert list(volumes.index[volumes.isna()]) == (
        ['CSF', 'Total-Intracranial'] if release == '1.0' else []
    )

    for arguments in (
        [source, tmp_path / 'model.h5'],
        [source, models],
        [tmp_path / 'nowhere.h5', out],
        [scan, out],
    ):
        capfd.readouterr()
        assert main(['import-weights', *map(str, arguments)]) == 1
        assert capfd.readouterr().err.count('\n') == 1
