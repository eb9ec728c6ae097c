"""Speed of the generator and of the network, beside what the device can do."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.forward import infer
from synthseg_bids.labels import mirror_channels, network_labels
from synthseg_bids.models.registry import load_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.synth.label_maps import LabelMap, generate
from synthseg_bids.synth.parameters import GeneratorConfig
from synthseg_bids.synth.presets import PRESETS

from .files import load_maps
from .part import Run

#: Makes what computes both passes, of network, image and channels of the mirror image.
Prepare = Callable[[Run, UNet3D, Tensor, Tensor], Callable[[], object]]

BATCHES = (1, 2, 4, 8, 16)
#: Seconds for each batch size and for each way of computing a pass, of a part's time.
SHARE = 0.12
#: Scans over which bytes and operations of the generator are averaged: each takes other steps.
COUNTED = 8
#: Seconds without which no other way of computing a pass is begun: some are compiled.
LEAST = 15


class Traffic(TorchDispatchMode):
    """Count operations on a device, and the bytes that they read and write without caches."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device_type = device.type
        self.bytes = self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read, written = (
            [
                one
                for one in tree_leaves(tree)
                if isinstance(one, Tensor) and one.device.type == self.device_type
            ]
            for tree in ((args, kwargs), out)
        )
        if not (read or written):
            return out
        storages = {one.untyped_storage()._cdata for one in read}
        views = all(one.untyped_storage()._cdata in storages for one in written)
        # Views and tensors without content read and write nothing.
        if func._schema.is_mutable or not (views or 'empty' in func.name()):
            self.operations += 1
            self.bytes += sum(
                min(one.numel() * one.element_size(), one.untyped_storage().nbytes())
                for one in (*read, *written)
            )
        return out


def speeds(run: Run) -> dict[str, float]:
    """Copy and multiply as fast as the device can: GB/s, read and written, and TFLOP/s."""
    n = 2**22 if run.tiny else 2**30
    values = torch.zeros(n, dtype=torch.uint8, device=run.device)
    other = torch.ones_like(values)
    side = 256 if run.tiny else 8192
    matrix = torch.randn(side, side, device=run.device).to(_number_format(run))
    copying = fastest(run, lambda: other.copy_(values), 16)
    return {
        'copying_gb_s': 2 * n / copying / 1e9,
        'matrices_tflop_s': 2 * side**3 / fastest(run, lambda: matrix @ matrix, 16) / 1e12,
    }


def fastest(run: Run, call: Callable[[], object], repeats: int, seconds: float = 10) -> float:
    """Return the seconds of the fastest of several calls, after a first one."""
    call()
    run.synchronize()
    best, end = np.inf, time.monotonic() + seconds
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        run.synchronize()
        best = min(best, time.perf_counter() - started)
        if time.monotonic() > end:
            break
    return best


def generator(run: Run) -> None:
    """Note scans per second for several batch sizes, and their share of the memory roofline."""
    config = PRESETS['synthseg-bids']
    if run.tiny:
        config = replace(config, size=(32, 32, 32))
    maps = [one.to(run.device) for one in load_maps(run.files, run.tiny)[:8]]
    device = speeds(run)
    run.note(**device, size=list(config.size or ()))
    for seed in range(len(maps)):
        make(maps, config, seed)
    run.synchronize()
    with Traffic(run.device) as traffic:
        for seed in range(COUNTED):
            make(maps, config, seed)
    moved = traffic.bytes / COUNTED / 1e9
    run.note(gb_per_scan=moved, operations_per_scan=traffic.operations / COUNTED)
    rows: list[dict[str, float]] = []
    for batch in BATCHES[:2] if run.tiny else BATCHES:
        seconds, waiting, scans = 0.0, 0.0, 0
        end = time.monotonic() + SHARE * run.left
        while not scans or time.monotonic() < end:
            started = time.perf_counter()
            parts = [make(maps, config, scans + i) for i in range(batch)]
            images, targets = (torch.stack(part) for part in zip(*parts, strict=True))
            launched = time.perf_counter()
            run.synchronize()
            done = time.perf_counter()
            assert images.shape == targets.shape
            seconds, waiting = seconds + done - started, waiting + done - launched
            scans += batch
        per_second = scans / seconds
        rows.append({
            'batch': batch, 'scans_per_s': per_second, 'host_share': 1 - waiting / seconds,
            'roofline_share': moved * per_second / device['copying_gb_s'],
        })  # fmt: skip
        run.note(batches=rows)


def make(maps: list[LabelMap], config: GeneratorConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Return an image and its target."""
    source = torch.Generator().manual_seed(seed)
    image, target, _ = generate(maps[seed % len(maps)], config, source)
    return image, target


def network(run: Run) -> None:
    """Note the seconds of a pass and its mirror image, for the shipped and the paper's network."""
    torch.backends.cudnn.benchmark = True
    run.note(**speeds(run))
    shape = (32, 32, 32) if run.tiny else (192, 224, 192)
    torch.manual_seed(0)
    image = torch.rand(1, 1, *shape, device=run.device)
    networks = {'shipped': load_model()[0], 'paper': UNet3D(NetworkConfig())}
    if run.tiny:
        networks = {
            name: UNet3D(replace(one.config, features=4, levels=3, output_features=0))
            for name, one in networks.items()
        }
    found: dict[str, dict[str, Any]] = {
        name: {'shape': list(shape), 'tflop': 2 * operations(one, image)}
        for name, one in networks.items()
    }
    for way, prepare in WAYS.items():
        for name, one in networks.items():
            if run.device.type == 'cuda' or way in ON_CPU:
                found[name][way] = _measured(run, prepare, one, image, found[name]['tflop'])
                run.note(**found)
    rows = [row for one in found.values() for row in one.values() if isinstance(row, dict)]
    if any('error' in row for row in rows):
        raise SystemExit('a way of computing a pass failed: see the numbers of this part')


def operations(net: UNet3D, image: Tensor) -> float:
    """Count the multiplications and additions of a pass, in units of 10^12, without computing."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(net).eval().to('meta')(image.to('meta'))
    return counter.get_total_flops() / 1e12


def _measured(
    run: Run, prepare: Prepare, net: UNet3D, image: Tensor, tflop: float
) -> dict[str, Any]:
    """Return the seconds of both passes in one way, or why there are none."""
    if not run.tiny and run.left < LEAST:
        return {'error': f'only {run.left:.0f} s were left'}
    lesions = net.config.out_channels == len(network_labels(lesions=True))
    mirror = torch.from_numpy(mirror_channels(network_labels(lesions))).to(run.device)
    try:
        seconds = fastest(run, prepare(run, net, image, mirror), 8, SHARE * run.left)
    except Exception as error:
        return {'error': str(error).strip().partition('\n')[0][:200]}
    return {'s': seconds, 'tflop_s': tflop / seconds}


def _number_format(run: Run) -> torch.dtype:
    return torch.bfloat16 if run.device.type == 'cuda' else torch.float32


def _posteriors(engine: Engine, image: Tensor, mirror: Tensor) -> Tensor:
    """Return the mean posteriors of both passes, on the device."""
    straight, flipped = engine.features(image), engine.features(image.flip(2))
    whole = [slice(0, n) for n in straight.shape[2:]]
    found = engine.logits(straight, whole).softmax(1)
    return found.add_(engine.logits(flipped, whole, mirror).softmax(1)).mul_(0.5)


def _engine(run: Run, net: UNet3D, image: Tensor, mirror: Tensor) -> Callable[[], object]:
    engine = Engine(net, run.device, _number_format(run))
    return lambda: _posteriors(engine, image, mirror)


def _graph(run: Run, net: UNet3D, image: Tensor, mirror: Tensor) -> Callable[[], object]:
    """Record the kernels of both passes once, and launch them all together."""
    call = _engine(run, net, image, mirror)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _plain(
    run: Run, net: UNet3D, image: Tensor, mirror: Tensor, compiled: bool = False
) -> Callable[[], object]:
    """Compute as training does: without the engine, in its number format, channels last."""
    dtype = _number_format(run)
    plain = copy.deepcopy(net).eval().requires_grad_(False).place(run.device)
    straight = image.contiguous(memory_format=torch.channels_last_3d)

    def both(one: Tensor) -> Tensor:
        with torch.autocast(run.device.type, dtype, enabled=dtype != torch.float32):
            first, second = plain(one), plain(one.flip(2))
        return first.softmax(1).add_(second.flip(2)[:, mirror].softmax(1)).mul_(0.5)

    function = torch.compile(both) if compiled else both

    @torch.no_grad()
    def call() -> Tensor:
        return function(straight)

    return call


def _compiled(run: Run, net: UNet3D, image: Tensor, mirror: Tensor) -> Callable[[], object]:
    return _plain(run, net, image, mirror, compiled=True)


def _to_host(run: Run, net: UNet3D, image: Tensor, mirror: Tensor) -> Callable[[], object]:
    """Compute as segmenting does: posteriors are copied to the host, slab by slab."""
    engine, scan = Engine(net, run.device, _number_format(run)), image[0, 0].cpu()
    return lambda: infer(engine, scan, mirror.cpu().numpy())


WAYS: dict[str, Prepare] = {
    'engine': _engine,
    'engine, CUDA graph': _graph,
    'engine, posteriors to the host': _to_host,
    'plain': _plain,
    'plain, torch.compile': _compiled,
}
#: Those that a rehearsal on the CPU has.
ON_CPU = ('engine', 'plain', 'engine, posteriors to the host')
