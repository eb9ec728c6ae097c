"""One measurement of benchmarks/inference.py, in a process of its own: prints a line of JSON.

Usage: python inference_rows.py ROW [--size N] [--scan FILE] [--threads N]

Only what a row needs is imported, so that the rows of other implementations run in environments
that do not have this package.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

import numpy as np

FEATURES, CHANNELS = 24, 33


def measure(run, repeats: int = 4, who: int = resource.RUSAGE_SELF, of=min) -> dict[str, float]:
    """Return the seconds of the first call and of the later ones, and the peak memory.

    The fastest of the latter counts; of calls that differ in what they have to do, the median.
    """
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(who).ru_maxrss * 1024 / 1e9
    return {'first_s': seconds[0], 'seconds': of(seconds[1:] or seconds), 'peak_gb': peak}


def random_scan(size: int) -> np.ndarray:
    return np.random.default_rng(0).random((size, size, size), dtype=np.float32)


def keras_network(args):
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'tests', 'parity'))
    import tensorflow as tf
    from keras_unet import build

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    model = build(FEATURES, CHANNELS)
    scan = random_scan(args.size)[None, ..., None]
    return measure(lambda: model.predict(scan, verbose=0))


def plain_network(args, dtype_name: str = 'float32'):
    """Run the network in plain PyTorch, without tiles or fused layers."""
    import torch

    from synthseg_bids.models.unet import UNet3D

    torch.set_num_threads(args.threads)
    dtype = getattr(torch, dtype_name)
    network = UNet3D().eval().place('cpu')
    scan = torch.from_numpy(random_scan(args.size))[None, None]
    scan = scan.contiguous(memory_format=torch.channels_last_3d)

    @torch.inference_mode()
    def run():
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            return network(scan).softmax(1)

    return measure(run)


def our_network(args, dtype_name: str, flip: bool = False, device: str = 'cpu'):
    import torch

    from synthseg_bids.inference.engine import Engine
    from synthseg_bids.inference.forward import infer
    from synthseg_bids.labels import mirror_channels
    from synthseg_bids.models.unet import UNet3D

    torch.set_num_threads(args.threads)
    engine = Engine(UNet3D(), torch.device(device), getattr(torch, dtype_name))
    scan = torch.from_numpy(random_scan(args.size))
    mirror = mirror_channels() if flip else None
    return measure(lambda: infer(engine, scan, mirror))


def without_ideas(args, repeats: int = 4):
    """Time passes with one optimisation switched off each, in turn, so that noise is shared."""
    import torch
    from torch.nn import functional

    from synthseg_bids.inference import engine
    from synthseg_bids.inference.forward import infer
    from synthseg_bids.inference.winograd import channels_last
    from synthseg_bids.models.unet import UNet3D

    torch.set_num_threads(args.threads)
    network, cpu, dtype = UNet3D(), torch.device('cpu'), torch.bfloat16
    scan = torch.from_numpy(random_scan(args.size))

    class Concatenating(engine.Engine):
        def _join(self, i, skip, below):
            fine = functional.interpolate(below, scale_factor=2.0, mode='nearest')
            return channels_last(self._up[i].convs[0](torch.cat([skip, fine], 1)))

    ours = engine.Engine(network, cpu, dtype)
    winograd, engine.MIN_FEATURES = engine.MIN_FEATURES, sys.maxsize
    direct, concatenating = (kind(network, cpu, dtype) for kind in (engine.Engine, Concatenating))
    engine.MIN_FEATURES = winograd
    fast_elu = engine.elu_
    passes = {
        'all of them': (ours, {}),
        'without Winograd': (direct, {}),
        'without Winograd and the sub-pixel decoder': (concatenating, {}),
        # Winograd's layers have an activation of their own.
        'without Winograd and our ELU': (direct, {'elu_': functional.elu_}),
        'without Winograd and blocks of logits': (direct, {'BLOCK_VOXELS': args.size**3}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    standard = {'elu_': fast_elu, 'BLOCK_VOXELS': engine.BLOCK_VOXELS}
    for _ in range(repeats + 1):
        for name, (built, changes) in passes.items():
            for attribute, value in (standard | changes).items():
                setattr(engine, attribute, value)
            started = time.perf_counter()
            infer(built, scan)
            seconds[name].append(time.perf_counter() - started)
    return {name: min(values[1:]) for name, values in seconds.items()}


def ellipsoids(side: int = 256) -> np.ndarray:
    """Return nested ellipsoids, numbered from the outside in, of two sides."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    x, y, z = axis[:, None, None], axis[:, None], axis
    radius = (x / 0.7) ** 2 + (y / 0.9) ** 2 + (z / 0.8) ** 2
    labels = np.zeros((side, side, side), np.uint8)
    for number, limit in ((1, 1), (2, 0.7), (3, 0.6), (5, 0.4)):
        labels[radius < limit] = number
    labels[(labels >= 3) & (x > 0)] += 1
    return labels


def keras_generator(args):
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    import tensorflow as tf
    from keras_generator import build

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    return measure(build(ellipsoids(), [0, 1, 2, 4, 3, 6, 5], 7, 160), 9, of=median)


def our_labels(side: int = 256):
    """Return the ellipsoids as our generator takes label maps."""
    import torch

    from synthseg_bids.labels import generation_labels

    rows = {label.index: row for row, label in enumerate(generation_labels())}
    table = torch.tensor([rows[i] for i in (0, 507, 24, 3, 42, 2, 41)], dtype=torch.uint8)
    return table[torch.from_numpy(ellipsoids(side)).int()]


def our_generator(args, preset: str):
    from dataclasses import replace

    import torch

    from synthseg_bids.synth.generator import apply
    from synthseg_bids.synth.parameters import draw
    from synthseg_bids.synth.presets import PRESETS

    torch.set_num_threads(args.threads)
    labels = our_labels()
    config = replace(PRESETS[preset], size=(160, 160, 160))
    source = torch.Generator().manual_seed(0)
    return measure(
        lambda: apply(labels, draw(config, tuple(labels.shape), source), config), 9, of=median
    )


def dipy_pipeline(args):
    import nibabel as nib
    import torch
    from dipy.nn.torch.synthseg import SynthSeg

    torch.set_num_threads(args.threads)
    # Its weights would be downloaded; random ones take the same time.
    SynthSeg.fetch_default_weights = lambda self: None
    segmenter = SynthSeg()
    image = nib.load(args.scan)
    data = image.get_fdata(dtype=np.float32)
    return measure(lambda: segmenter.predict(data, image.affine), repeats=1)


def our_pipeline(
    args,
    model: str | None = None,
    dtype_name: str | None = None,
    flip: bool = True,
    device: str = 'cpu',
):
    import torch

    from synthseg_bids.hardware.device import set_threads
    from synthseg_bids.images.volume_io import read_volume
    from synthseg_bids.inference.engine import Engine
    from synthseg_bids.inference.segmenter import Segmenter
    from synthseg_bids.models.card import ModelCard
    from synthseg_bids.models.unet import NetworkConfig, UNet3D

    set_threads(args.threads)
    if model:
        segmenter = Segmenter(model, device, flip)
    else:
        dtype = getattr(torch, dtype_name) if dtype_name else None
        engine = Engine(UNet3D(), torch.device('cpu'), dtype)
        segmenter = Segmenter.from_engine(engine, ModelCard('random', NetworkConfig(), 1.0))
    scan = read_volume(args.scan)
    return measure(lambda: segmenter.segment(scan.data, scan.affine), repeats=2)


def our_command(args):
    """Run the command as its users do: a scan is read and its label map written."""
    command = [sys.executable, '-m', 'synthseg_bids.cli', 'segment', args.scan]
    with tempfile.TemporaryDirectory() as folder:
        command += [os.path.join(folder, 'labels.nii.gz'), '--device', 'cpu']
        command += ['--threads', str(args.threads)]
        return measure(
            lambda: subprocess.run(command, check=True, capture_output=True),
            repeats=2,
            who=resource.RUSAGE_CHILDREN,
        )


def peaks(args):
    """Multiply matrices and copy as fast as this computer can: 10^9 operations, bytes a second."""
    import torch

    from synthseg_bids.hardware.device import fast_dtype

    torch.set_num_threads(args.threads)
    found = {}
    # Where it is emulated, such a product in bfloat16 takes minutes.
    fast = fast_dtype(torch.device('cpu'))
    for name in ('float32', 'bfloat16') if fast == torch.bfloat16 else ('float32',):
        matrix = torch.randn(2048, 2048).to(getattr(torch, name))
        fastest = measure(lambda matrix=matrix: matrix @ matrix, repeats=8)['seconds']
        found[name] = 2 * 2048**3 / fastest / 1e9
    values = torch.zeros(2**28)
    copy = torch.ones_like(values)
    found['copying'] = 2 * values.nbytes / measure(lambda: copy.copy_(values), 8)['seconds'] / 1e9
    if torch.cuda.is_available():
        matrix = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)
        values, copy = values.cuda(), copy.cuda()

        def seconds(run):
            return measure(lambda: (run(), torch.cuda.synchronize()), 16)['seconds']

        found['GPU'] = 2 * 8192**3 / seconds(lambda: matrix @ matrix) / 1e9
        found['copying, GPU'] = 2 * values.nbytes / seconds(lambda: copy.copy_(values)) / 1e9
    return found


ROWS = {
    'network-tensorflow': keras_network,
    'network-plain-float32': plain_network,
    'network-plain-bfloat16': lambda args: plain_network(args, 'bfloat16'),
    'network-ours-float32': lambda args: our_network(args, 'float32'),
    'network-ours-bfloat16': lambda args: our_network(args, 'bfloat16'),
    'network-ours-bfloat16-given-back': lambda args: our_network(args, 'bfloat16'),
    'network-ours-float32-flip': lambda args: our_network(args, 'float32', flip=True),
    'network-ours-bfloat16-flip': lambda args: our_network(args, 'bfloat16', flip=True),
    'generator-tensorflow': keras_generator,
    'generator-ours': lambda args: our_generator(args, 'synthseg2023'),
    'generator-ours-shipped': lambda args: our_generator(args, 'synthseg-bids'),
    'pipeline-dipy': dipy_pipeline,
    'pipeline-ours-float32': lambda args: our_pipeline(args, dtype_name='float32'),
    'pipeline-ours': our_pipeline,
    'pipeline-ours-given-back': our_pipeline,
    'pipeline-shipped': lambda args: our_pipeline(args, 'default'),
    'pipeline-shipped-fast': lambda args: our_pipeline(args, 'default', flip=False),
    'pipeline-command': our_command,
    'network-ours-cuda-flip': lambda args: our_network(args, 'bfloat16', True, 'cuda'),
    'pipeline-shipped-cuda': lambda args: our_pipeline(args, 'default', device='cuda'),
    'ideas-bfloat16': without_ideas,
    'peaks': peaks,
}

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('row', choices=ROWS)
    parser.add_argument('--size', type=int, default=192)
    parser.add_argument('--scan')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    args = parser.parse_args()
    print(json.dumps(ROWS[args.row](args)))
