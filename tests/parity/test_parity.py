"""Our network with imported weights against the other implementations; see make test-parity."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.testing import data_path
from published import dipy_state, random_scan, random_weights, write_h5

from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.forward import infer
from synthseg_bids.inference.preprocess import rescale_intensities
from synthseg_bids.inference.reference import resample_as_reference
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.models.card import save_model
from synthseg_bids.models.published import import_model
from synthseg_bids.models.registry import load_model
from synthseg_bids.models.unet import NetworkConfig

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]
RECORDED = Path(__file__).parents[1] / 'data' / 'keras_posteriors.npz'


def posteriors(network, scan):
    """Compute them as a scan's are, the mirrored pass left out."""
    engine = Engine(network, torch.device('cpu'), torch.float32)
    return infer(engine, torch.from_numpy(scan)).posteriors.numpy()


def real_scan():
    """Read a part of a T1w scan, as the networks see it: at 1 mm, in [0, 1], padded."""
    image = nib.load(Path(data_path) / 'anatomical.nii')
    data, _ = resample_as_reference(image.get_fdata(dtype=np.float32), image.affine)
    return np.pad(rescale_intensities(data), [(0, -n % 16) for n in data.shape])


@pytest.fixture
def keras(tmp_path):
    """Run the network in Keras; return its posteriors, channels first."""
    python = os.environ.get('KERAS_PYTHON')
    if not python:
        pytest.skip('KERAS_PYTHON is not set: use make test-parity')

    def run(weights, scan, features, channels, *options):
        np.save(tmp_path / 'scan.npy', scan)
        files = (weights, tmp_path / 'scan.npy', tmp_path / 'posteriors.npy')
        sizes = ('--features', str(features), '--channels', str(channels))
        script = Path(__file__).with_name('keras_unet.py')
        subprocess.run([python, script, *files, *sizes, *options], check=True)
        return np.moveaxis(np.load(tmp_path / 'posteriors.npy'), -1, 0)

    return run


@pytest.mark.parametrize(
    ('channels', 'options'), [(33, ()), (32, ()), (33, ('--whole',))], ids=['2.0', '1.0', 'whole']
)
def test_keras(tmp_path, keras, channels, options):
    scan = real_scan()
    theirs = keras(tmp_path / 'w.h5', scan, 24, channels, '--seed', '2', *options)
    network, card = import_model(tmp_path / 'w.h5')
    save_model(tmp_path / 'w.safetensors', network, card, dtype=torch.float32)
    ours = posteriors(load_model(tmp_path / 'w.safetensors')[0], scan)
    if channels == 32:
        csf = [label.index for label in segmentation_labels()].index(24)
        assert not ours[csf].any()
        ours = np.delete(ours, csf, 0)
    difference = np.abs(ours - theirs).max()
    print(f'largest difference of {channels} posteriors to Keras: {difference:.2g}')
    # Neither uniform nor saturated, which would agree whatever the weights.
    assert len(np.unique(ours.argmax(0))) > 5
    assert np.median(ours.max(0)) < 0.95
    assert difference < 1e-4


def test_recorded_posteriors_are_those_of_keras(tmp_path, keras):
    weights = write_h5(tmp_path / 'w.h5', random_weights(features=2, channels=33))
    theirs = keras(weights, random_scan((32, 16, 16)), 2, 33)[:, ::5, ::3, ::3]
    if os.environ.get('RECORD'):
        np.savez_compressed(RECORDED, posteriors=theirs)
    np.testing.assert_allclose(theirs, np.load(RECORDED)['posteriors'], atol=1e-6, rtol=0)


@pytest.mark.parametrize('features', [4, 24])
def test_dipy(tmp_path, features):
    module = pytest.importorskip('dipy.nn.torch.synthseg')
    model = module.Model(model_scale=features).eval()
    # Strictly: the made state dict is laid out as DIPY's.
    model.load_state_dict(dipy_state(random_weights(features, channels=33)))
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    network, _ = import_model(tmp_path / 'w.pth', NetworkConfig(features=features))
    scan = random_scan((32, 48, 32))
    with torch.inference_mode():
        theirs = model(torch.from_numpy(scan)[None, None])[0].numpy()
        ours = network(torch.from_numpy(scan)[None, None]).softmax(1)[0].numpy()
    difference = np.abs(ours - theirs).max()
    rearranged = np.abs(posteriors(network, scan) - theirs).max()
    print(f'largest difference to DIPY with {features} features: {difference:.2g}, rearranged for '
          f'inference {rearranged:.2g}')  # fmt: skip
    assert len(np.unique(ours.argmax(0))) > 5
    assert difference < 1e-6
    # The same sums in another order.
    assert rearranged < 5e-5
