"""A GPU that a build of PyTorch without CUDA leaves idle is warned of, once."""

from __future__ import annotations

import logging

import pytest
import torch

from synthseg_bids import __version__
from synthseg_bids.hardware import idle_gpu
from synthseg_bids.hardware.device import DeviceError, resolve_device


@pytest.fixture
def dev(monkeypatch, tmp_path):
    """An empty /dev, a PATH with nothing on it, and PyTorch without CUDA."""
    monkeypatch.setattr(idle_gpu, 'DEV', tmp_path)
    monkeypatch.setenv('PATH', str(tmp_path))
    for name in ('NVIDIA_VISIBLE_DEVICES', 'SYNTHSEG_BIDS_DOCKER_TAG'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv('SYNTHSEG_BIDS_SINGULARITY_URL', raising=False)
    monkeypatch.setattr(torch.version, 'cuda', None)
    monkeypatch.setattr(torch.version, 'hip', None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    idle_gpu.warn_of_idle_gpu.cache_clear()
    yield tmp_path
    idle_gpu.warn_of_idle_gpu.cache_clear()


def warnings(caplog) -> list[str]:
    """Ask for a device three times; return what is logged."""
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert resolve_device('auto') == torch.device('cpu')
    return caplog.messages


@pytest.mark.parametrize('variable', ['', 'all', 'none', 'void'])
def test_nothing_to_warn_of(dev, caplog, monkeypatch, variable):
    monkeypatch.setenv('NVIDIA_VISIBLE_DEVICES', variable)
    (dev / 'nvidia-caps').touch()
    assert warnings(caplog) == []


@pytest.mark.parametrize('sign', ['nvidia0', 'nvidia-smi', '0', 'GPU-01ab', 'MIG-01ab'])
def test_signs_of_a_gpu(dev, caplog, monkeypatch, sign):
    if sign.startswith('nvidia'):
        (dev / sign).touch(0o755)
        shown = str(dev / sign)
    else:
        monkeypatch.setenv('NVIDIA_VISIBLE_DEVICES', sign)
        shown = f'NVIDIA_VISIBLE_DEVICES={sign}'
    (line,) = warnings(caplog)
    assert line.startswith(f'{shown}: there is an NVIDIA GPU')
    assert f'synthseg-bids:{__version__}' in line


@pytest.mark.parametrize(
    ('variable', 'value', 'says'),
    [
        ('SYNTHSEG_BIDS_DOCKER_TAG', '1.2-cpu', 'synthseg-bids:1.2 in place of 1.2-cpu'),
        ('SYNTHSEG_BIDS_SINGULARITY_URL', 'file://a.sif', 'make singularity'),
    ],
)
def test_images_name_the_other_one(dev, caplog, monkeypatch, variable, value, says):
    (dev / 'nvidia0').touch()
    monkeypatch.setenv(variable, value)
    (line,) = warnings(caplog)
    assert says in line


def test_builds_for_a_gpu_are_not_warned_of(dev, caplog, monkeypatch):
    (dev / 'nvidia0').touch()
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    assert warnings(caplog) == []


def test_who_chooses_is_not_warned(dev, caplog):
    (dev / 'nvidia0').touch()
    with caplog.at_level(logging.WARNING):
        resolve_device('cpu')
        with pytest.raises(DeviceError, match='has no CUDA; install'):
            resolve_device('cuda')
    assert caplog.messages == []
