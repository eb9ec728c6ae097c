from __future__ import annotations

import pytest
import torch

from synthseg_bids.hardware.device import DeviceError, fast_dtype, resolve_device


def test_names():
    assert resolve_device('cpu') == torch.device('cpu')
    assert resolve_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')


@pytest.mark.parametrize('name', ['cuda:99', 'cuda:x', 'tpu', ''])
def test_what_does_not_exist_is_refused(name):
    with pytest.raises(DeviceError, match='device'):
        resolve_device(name)


def test_number_format():
    assert fast_dtype(torch.device('cpu')) in (torch.bfloat16, torch.float32)
