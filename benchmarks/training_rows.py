"""One measurement of benchmarks/training.py: prints a line of JSON.

Usage: python training_rows.py [--model NAME] [--device NAME] [--threads N] [--steps N] [--compile]

Run by torchrun, all its processes train together and the first one prints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from inference_rows import measure, our_labels
from torch.utils.flop_counter import FlopCounterMode

from synthseg_bids.models.registry import load_model
from synthseg_bids.synth.label_maps import LabelMap
from synthseg_bids.training.config import TrainingConfig
from synthseg_bids.training.distributed import ProcessGroup, join
from synthseg_bids.training.trainer import Trainer

PARTS = ('generator', 'forward', 'backward')


def synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


class Parts:
    """Seconds and operations of the parts of a step."""

    def __init__(self, trainer: Trainer) -> None:
        self.device = trainer.device
        self.seconds: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.counting = False
        trainer.sample = self.wrap('generator', trainer.sample)
        trainer._logits = self.wrap('forward', trainer._logits)
        trainer.loss = self.wrap('forward', trainer.loss)
        torch.Tensor.backward = self.wrap('backward', torch.Tensor.backward)

    def wrap(self, name, function):
        """Return a function that notes what another takes as part of `name`."""

        def wrapper(*args, **kwargs):
            synchronize(self.device)
            started = time.perf_counter()
            counter = FlopCounterMode(display=False) if self.counting else nullcontext()
            with counter:
                result = function(*args, **kwargs)
            synchronize(self.device)
            self.seconds[name] += time.perf_counter() - started
            self.operations[name] += counter.get_total_flops() if self.counting else 0
            return result

        return wrapper


def make_trainer(args: argparse.Namespace, ranks: ProcessGroup) -> Trainer:
    """Train as a shipped network was, on one head of ellipsoids."""
    network, card = load_model(args.model)
    config = TrainingConfig(
        network=network.config,
        optimizer=card.training['config']['optimizer'],
        compile=args.compile,
    )
    labels = our_labels()
    x, y, z = ((n - 1) / 2 for n in labels.shape)
    head = LabelMap('ellipsoids', labels, np.eye(4), 1.0, (x, y, z))
    generator = replace(config.generator, downsampling=round(card.spacing_mm))
    config = replace(config, generator=generator)
    return Trainer(config, [head], device=ranks.device, ranks=ranks)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply matrices as fast as this device can; return operations per second."""
    n = 8192 if device.type == 'cuda' else 2048
    matrix = torch.randn(n, n, device=device).to(dtype)

    def multiply() -> None:
        matrix @ matrix
        synchronize(device)

    return 2 * n**3 / measure(multiply, repeats=8)['seconds']


def run(args: argparse.Namespace, ranks: ProcessGroup) -> dict[str, object]:
    device = ranks.device
    trainer = make_trainer(args, ranks)

    def steps() -> list[float]:
        seconds = []
        for _ in range(args.steps):
            started = time.perf_counter()
            ranks.mean(float(trainer.train_step()))
            seconds.append(time.perf_counter() - started)
        return seconds

    for _ in range(2):
        trainer.train_step()
    step_s = statistics.median(steps())
    parts = Parts(trainer)
    total = sum(steps())
    shares = {name: parts.seconds[name] / total for name in PARTS}
    ranks.largest(0)
    fastest = peak(device, trainer.dtype) * ranks.size
    parts.counting = True
    trainer.train_step()
    operations = ranks.size * (parts.operations['forward'] + parts.operations['backward'])
    return {
        'samples_per_s': ranks.size * trainer.config.batch_size / step_s,
        **shares,
        'optimizer': 1 - sum(shares.values()),
        'gflop_per_step': operations / 1e9,
        'gflops': operations / step_s / 1e9,
        'peak_gflops': fastest / 1e9,
        'dtype': str(trainer.dtype).removeprefix('torch.'),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu',
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='default')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--compile', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with join(args.device) as ranks:
        result = run(args, ranks)
        if not ranks.rank:
            print(json.dumps(result))


if __name__ == '__main__':
    main()
