from __future__ import annotations

import pytest
import torch

from synthseg_bids.errors import UsageError
from synthseg_bids.hardware.device import DeviceError, fast_dtype, resolve_device


def test_names():
    assert resolve_device('cpu') == torch.device('cpu')
    assert resolve_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')


@pytest.mark.parametrize('name', ['cuda:99', 'cuda:x', 'tpu', ''])
def test_what_does_not_exist_is_refused(name):
    with pytest.raises(DeviceError, match='device'):
        resolve_device(name)


def test_number_format(monkeypatch):
    monkeypatch.delenv('SYNTHSEG_BIDS_DTYPE', raising=False)
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        for check in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
            monkeypatch.setattr(torch.cpu, check, lambda supported=supported: supported)
        assert fast_dtype(torch.device('cpu')) == dtype


@pytest.mark.parametrize('device', ['cpu', 'cuda:0'])
def test_number_format_by_name(device, monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setenv('SYNTHSEG_BIDS_DTYPE', str(dtype).removeprefix('torch.'))
        assert fast_dtype(torch.device(device)) == dtype
    monkeypatch.setenv('SYNTHSEG_BIDS_DTYPE', 'float16')
    with pytest.raises(UsageError, match='SYNTHSEG_BIDS_DTYPE=float16: use float32 or bfloat16'):
        fast_dtype(torch.device(device))
