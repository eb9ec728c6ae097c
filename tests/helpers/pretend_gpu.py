"""A GPU that is not there: tensors on it are the CPU's, with a mark, and must not meet others.

What runs for a GPU alone runs here as well, with real numbers: the device of a marked tensor is
``cuda:0``, and an operation on marked and unmarked tensors is the error that it would be. What is
copied between the two, and where the host would wait for the GPU, is noted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU, CPU = torch.device('cuda', 0), torch.device('cpu')
MARK = '_on_pretended_gpu'
#: Operations that may read from one device and write to the other.
COPIES = ('aten::copy_', 'aten::_copy_from')
#: Those whose indices, between the first and the last of their tensors, may be the CPU's.
INDEXED, INDEXED_TO = 'aten::index.', ('aten::index_put', 'aten::_index_put_impl_')
#: Those which take no number of the CPU's for a GPU's tensor.
JOINED = ('aten::cat', 'aten::stack')
#: Those which take a device and make nothing on it.
READERS = (torch._C._nn._parse_to,)
#: Those for whose result, or its size, the host waits.
WAITS = (
    'aten::_local_scalar_dense', 'aten::bincount', 'aten::equal', 'aten::is_nonzero',
    'aten::masked_select', 'aten::nonzero', 'aten::repeat_interleave.Tensor', 'aten::_unique2',
)  # fmt: skip
#: Those which copy a list of numbers to a device.
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)
#: Those which must not be asked of a GPU's tensor.
HOST_ONLY = (Tensor.numpy, Tensor.__array__)


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is marked."""
    return hasattr(tensor.untyped_storage(), MARK)


def _mark(tensor: Tensor) -> Tensor:
    setattr(tensor.untyped_storage(), MARK, True)
    return tensor


def _tensors(*trees: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


class _Operations(TorchDispatchMode):
    """Mark what comes of marked tensors; refuse operations on tensors of two devices."""

    def __init__(self, traffic: list[str]) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        inputs, name = _tensors(args, kwargs), func.name()
        checked = inputs
        if name.startswith(INDEXED):
            checked = inputs[:1]
        elif name.startswith(INDEXED_TO):
            checked = [inputs[0], *(t for t in inputs[-1:] if t.dim())]
        elif not name.startswith(JOINED):
            checked = [t for t in inputs if t.dim()]
        copied = name.startswith(COPIES)
        gpu = any(is_on_gpu(t) for t in inputs)
        if gpu and not copied and not all(is_on_gpu(t) for t in checked):
            shapes = [('cuda' if is_on_gpu(t) else 'cpu', tuple(t.shape)) for t in inputs]
            raise RuntimeError(f'{name}: tensors on two devices: {shapes}')
        if gpu:
            self._note(name, inputs)
        out = func(*args, **(kwargs or {}))
        if gpu and not copied:
            for tensor in _tensors(out):
                _mark(tensor)
        return out

    def _note(self, name: str, inputs: list[Tensor]) -> None:
        indexed = name.startswith((INDEXED, *INDEXED_TO))
        if name.startswith(WAITS) or (indexed and any(t.dtype == torch.bool for t in inputs[1:])):
            self.traffic.append(name)
        elif name.startswith(COPIES) and not all(is_on_gpu(t) for t in inputs if t.dim()):
            self.traffic.append(f'{name} between devices')
        elif indexed and not all(is_on_gpu(t) for t in inputs[1:] if t.dim()):
            self.traffic.append(f'{name} with indices of the host')


class _Calls(TorchFunctionMode):
    """Give marked tensors their device; keep PyTorch from looking for a GPU."""

    def __init__(self, traffic: list[str]) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return GPU if is_on_gpu(args[0]) else CPU
        if func == Tensor.is_cuda.__get__:
            return is_on_gpu(args[0])
        if func in HOST_ONLY and is_on_gpu(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func in (Tensor.cpu, Tensor.to):
            moved = _to(*args, **kwargs) if func is Tensor.to else _moved(args[0], CPU)
            if is_on_gpu(moved) != is_on_gpu(args[0]):
                there = 'cuda' if is_on_gpu(moved) else 'cpu'
                self.traffic.append(f'{tuple(moved.shape)} to {there}')
            return moved
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.new_tensor:
            made = func(*args, **kwargs)
            if is_on_gpu(args[0]):
                self.traffic.append(f'numbers {tuple(made.shape)} to cuda')
                return _mark(made)
            return made
        if generator := kwargs.get('generator'):
            _check_generator(generator, args[0] if args else None, kwargs.get('device'))
        if torch.device(kwargs.get('device') or 'cpu').type == 'cuda' and func not in READERS:
            if func in FROM_NUMBERS:
                self.traffic.append(f'numbers to cuda by {func.__name__}')
            return _mark(func(*args, **{**kwargs, 'device': 'cpu'}))
        return func(*args, **kwargs)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if (device.type == 'cuda') == is_on_gpu(tensor):
        return tensor
    copied = torch.ops.aten.clone(tensor)
    storage = copied.untyped_storage()
    if device.type == 'cuda':
        return _mark(copied)
    if hasattr(storage, MARK):
        delattr(storage, MARK)
    return copied


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Do what ``Tensor.to`` does, whichever way it is called."""
    for word in args:
        if isinstance(word, Tensor):
            kwargs['device'] = GPU if is_on_gpu(word) else CPU
            kwargs['dtype'] = word.dtype
        elif isinstance(word, torch.dtype):
            kwargs['dtype'] = word
        elif isinstance(word, (str, torch.device)):
            kwargs['device'] = word
    device = kwargs.pop('device', None)
    same = Tensor.to(tensor, **{k: v for k, v in kwargs.items() if v is not None})
    return same if device is None else _moved(same, torch.device(device))


def _loaded(load: Callable[..., Any], *args: Any, map_location: Any, **kwargs: Any) -> Any:
    """Do what ``torch.load`` does."""
    device = torch.device(map_location)
    found = load(*args, map_location='cpu', **kwargs)
    return tree_map_only(Tensor, lambda tensor: _moved(tensor, device), found)


class _Generator(torch._C.Generator):
    """The CPU's, which knows what it was made for."""

    def __new__(cls, device: torch.device | str = 'cpu') -> _Generator:
        made = torch._C.Generator.__new__(cls)
        made.kind = torch.device(device).type
        return made


def _check_generator(generator: torch.Generator, first: object, device: Any) -> None:
    """Refuse a generator of another device than the numbers that are asked of it."""
    kind = torch.device(device or 'cpu').type
    if isinstance(first, Tensor) and is_on_gpu(first):
        kind = 'cuda'
    found = getattr(generator, 'kind', 'cpu')
    if found != kind:
        raise RuntimeError(f'a generator of {found} on two devices: numbers of {kind}')


@contextlib.contextmanager
def pretend_gpu(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int = 64 * 2**30
) -> Iterator[list[str]]:
    """Let PyTorch believe in a GPU of 80 GB within a block; yields the traffic with the host."""
    traffic: list[str] = []
    told: dict[str, Callable[..., object]] = {
        'is_available': lambda: True,
        'device_count': lambda: 1,
        'get_device_capability': lambda device=None: (9, 0),
        'get_device_name': lambda device=None: 'a GPU that is not there',
        'mem_get_info': lambda device=None: (free_bytes, 80 * 2**30),
        'memory_reserved': lambda device=None: 0,
        'memory_allocated': lambda device=None: 0,
        'max_memory_allocated': lambda device=None: 0,
        'reset_peak_memory_stats': lambda device=None: None,
        'empty_cache': lambda: None,
        'synchronize': lambda device=None: None,
    }
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    # Builds for CUDA ask the real driver whether its stream is captured.
    monkeypatch.setattr(torch.accelerator, 'current_accelerator', lambda *_, **__: None)
    autocast, load = torch.autocast, torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, **kw: _loaded(load, *args, **kw))
    monkeypatch.setattr(torch, 'autocast', lambda _, *args, **kw: autocast('cpu', *args, **kw))
    monkeypatch.setattr(torch, 'Generator', _Generator)
    by_device = clip_grad._group_tensors_by_device_and_dtype

    def grouped(tensors: list[list[Tensor]]) -> dict:
        """Group tensors as on a GPU; the original looks past the mark."""
        gpu = any(is_on_gpu(tensor) for tensor in tensors[0])
        return {(GPU if gpu else k, dtype): v for (k, dtype), v in by_device(tensors).items()}

    monkeypatch.setattr(clip_grad, '_group_tensors_by_device_and_dtype', grouped)
    with _Calls(traffic), _Operations(traffic):
        yield traffic
