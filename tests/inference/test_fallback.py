"""A scan is segmented although memory runs out or a GPU fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stub_networks import SideStub, StubEngine, ball
from torch import Tensor

from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.fallback import DeviceWithFallback
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig


@pytest.mark.parametrize(
    ('norm', 'attempts', 'said'),
    [
        *[('batch', 1, 'by slabs'), ('batch', 2, 'in tiles'), ('batch', 4, 'on the CPU')],
        *[('instance', 1, 'in tiles'), ('instance', 3, 'on the CPU')],
    ],
)
def test_goes_on_when_memory_runs_out(caplog, norm, attempts, said):
    class Greedy(SideStub):
        def forward(self, x: Tensor) -> Tensor:
            if len(self.seen) < attempts:
                self.seen.append(())
                raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')
            return super().forward(x)

    data, _ = ball((20, 20, 20), np.eye(4), (5, 0, 0), 4)
    card = ModelCard('stub', NetworkConfig(levels=3, norm=norm), 1.0)
    engine = StubEngine(Greedy(), card.network)
    found = Segmenter.from_engine(engine, card, spare=lambda: engine).segment(data, np.eye(4))
    assert (found.labels == 53).any()
    assert found.device == 'cpu'
    note = f'cpu: out of memory for an image of 20 x 20 x 20 voxels; continuing {said}'
    assert note in caplog.text
    assert found.fallback.startswith(note)


def test_goes_on_without_a_gpu_that_fails(caplog):
    class Failing(StubEngine):
        def features(self, x: Tensor) -> Tensor:
            super().features(x)
            raise RuntimeError('CUDA error: unspecified launch failure\nCompile with ...')

    def place(spare: StubEngine | None) -> Segmenter:
        card = ModelCard('stub', NetworkConfig(levels=3), 1.0)
        engine = Failing(broken, card.network)
        return Segmenter.from_engine(engine, card, spare=(lambda: spare) if spare else None)

    data, _ = ball((20, 20, 20), np.eye(4), (5, 0, 0), 4)
    broken = SideStub()
    with pytest.raises(RuntimeError, match='launch failure'):
        place(None).segment(data, np.eye(4))
    goes_on = place(StubEngine(SideStub(), NetworkConfig(levels=3)))
    broken.seen.clear()
    # It is asked once: in this process it would fail ever after.
    for _ in range(2):
        found = goes_on.segment(data, np.eye(4))
        assert (found.labels == 53).any()
        assert found.fallback == (
            'cpu: CUDA error: unspecified launch failure; continuing on the CPU'
        )
    assert len(broken.seen) == 1
    assert caplog.text.count('launch failure') == 1


@pytest.mark.parametrize(
    'message',
    [
        'CUDA error: CUDA-capable device(s) is/are busy or unavailable',
        'GET was unable to find an engine to execute this computation',
    ],
)
def test_goes_on_without_a_gpu_that_fails_to_load_the_network(message):
    def fail() -> Engine:
        raise RuntimeError(message)

    spare = StubEngine(SideStub(), NetworkConfig(levels=3))
    place = DeviceWithFallback(torch.device('cuda:1'), fail, lambda: spare)
    assert (place.engine, place.device) == (spare, torch.device('cpu'))
    assert place.run(lambda engine, _: engine, (1, 1, 1))[2].startswith(f'cuda:1: {message}; ')
    with pytest.raises(RuntimeError, match=message[:20]):
        DeviceWithFallback(torch.device('cuda:1'), fail)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (torch.cuda.OutOfMemoryError, 'CUDA out of memory. Tried to allocate 20 MiB'),
        # Not even what PyTorch itself needs on a GPU.
        (RuntimeError, 'CUDA error: out of memory'),
    ],
)
def test_comes_back_to_a_gpu_that_was_full_when_the_network_was_loaded(kind, message):
    full = [True, True, False]

    def make() -> Engine:
        if full.pop(0):
            raise kind(message)
        return StubEngine(SideStub(), NetworkConfig(levels=3))

    spare = StubEngine(SideStub(), NetworkConfig(levels=3))
    place = DeviceWithFallback(torch.device('cuda:1'), make, lambda: spare)
    engine, device, note = place.run(lambda engine, plan: engine, (1, 1, 1))
    assert engine is spare
    assert device.type == 'cpu'
    assert note == f'cuda:1: {message}; continuing on the CPU'
    for _ in range(2):
        engine, device, note = place.run(lambda engine, plan: engine, (1, 1, 1))
        assert engine is not spare
        assert str(device) == 'cuda:1'
        assert note == ''
    assert not full


def test_libraries_short_of_memory_do_not_end_the_use_of_a_gpu():
    engines = [StubEngine(SideStub(), NetworkConfig(levels=3)) for _ in range(2)]
    place = DeviceWithFallback(torch.device('cuda:1'), lambda: engines[0], lambda: engines[1])
    plans = []

    def infer(engine, plan):
        plans.append(plan)
        if len(plans) == 1:
            raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')
        return engine

    found, device, note = place.run(infer, (8, 9, 10))
    assert (found, device) == (engines[0], torch.device('cuda:1'))
    assert note.startswith('cuda:1: out of memory for an image of 8 x 9 x 10 voxels')
    assert plans[0] is None
    assert plans[1] is not None


def test_errors_of_others_are_not_those_of_a_gpu():
    spare = StubEngine(SideStub(), NetworkConfig(levels=3))
    place = DeviceWithFallback(torch.device('cpu'), lambda: spare, lambda: spare)
    with pytest.raises(RuntimeError, match='shape'):
        place.run(lambda engine, _: torch.ones(2).reshape(3), (1, 1, 1))


def test_does_not_leave_the_gpu_unless_it_may(tiny_model, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')

    data, _ = ball((20, 20, 20), np.eye(4), (5, 0, 0), 4)
    stays = Segmenter(tiny_model, 'cpu', gpu_fallback=False)
    monkeypatch.setattr('synthseg_bids.inference.localise.predict', full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        stays.segment(data, np.eye(4))
