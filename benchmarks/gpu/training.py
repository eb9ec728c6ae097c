"""Train a network with wide layers at 1 mm for as long as there is time."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from synthseg_bids.labels import network_labels
from synthseg_bids.models.card import save_model
from synthseg_bids.models.registry import load_model
from synthseg_bids.models.unet import NetworkConfig
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.training.config import TrainingConfig
from synthseg_bids.training.trainer import Trainer

from .files import load_maps
from .part import Run

#: The paper's layers, with the normalisation of our own networks.
NETWORK = NetworkConfig(norm='instance', norm_placement='conv')
#: Share of the GPU's memory that a batch fills, and the largest batch.
FILLED, LARGEST_BATCH = 0.85, 64
#: Seconds that are kept for writing the network, and bytes of a piece of its file.
SAVING, PIECE = 10, 15_000_000
#: Steps after which the speed, and so the number of steps of the run, is known; and least steps.
KNOWN, LEAST = 8, 3


def train(run: Run) -> None:
    """Train; note the speed and the loss, and save the network in pieces."""
    torch.backends.cudnn.benchmark = True
    end = time.monotonic() + run.left - SAVING * (not run.tiny)
    trainer = _trainer(run, 1)
    batch = 2 if run.tiny else _fitting_batch(run, trainer)
    trainer = _trainer(run, batch)
    try:
        _steps(run, trainer, end)
    finally:
        if trainer.step:
            card = trainer.card('gpu')
            save_model(run.out / 'model.safetensors', trainer.average, card)
            run.note(pieces=cut(run.out / 'model.safetensors'))


def _trainer(run: Run, batch: int) -> Trainer:
    generator = replace(PRESETS['synthseg-bids'], lesion_label=True)
    network = replace(NETWORK, out_channels=len(network_labels(True)))
    if run.tiny:
        generator = replace(generator, size=(32, 32, 32))
        network = replace(network, features=4, levels=3)
    if run.start_from:
        network = load_model(run.start_from)[0].config
    config = TrainingConfig(
        network=network, generator=generator, batch_size=batch, optimizer='muon',
        learning_rate=5e-3, warmup=20, dice_weight=0.5, volume_weight=0.1, lesion_weight=4.0,
        ema_decay=0.99, steps=10_000, compile=run.device.type == 'cuda' and batch > 1,
    )  # fmt: skip
    trainer = Trainer(config, load_maps(run.files, run.tiny), device=run.device)
    if run.start_from:
        trainer.start_from(load_model(run.start_from))
    return trainer


def _fitting_batch(run: Run, trainer: Trainer) -> int:
    """Return the batch that fills the memory, judged by steps of one scan and of two."""
    if run.device.type != 'cuda':
        return 1
    peaks = []
    for batch in (1, 2):
        trainer.config = replace(trainer.config, batch_size=batch)
        trainer.train_step()
        torch.cuda.reset_peak_memory_stats()
        trainer.train_step()
        peaks.append(torch.cuda.max_memory_allocated())
    each = max(peaks[1] - peaks[0], 1)
    total = torch.cuda.get_device_properties(run.device).total_memory
    run.note(memory_gb=total / 1e9, gb_per_scan=each / 1e9)
    del trainer.optimizer, trainer.network, trainer.average
    torch.cuda.empty_cache()
    return int(min(max((FILLED * total - peaks[0]) // each, 1), LARGEST_BATCH))


def _steps(run: Run, trainer: Trainer, end: float) -> None:
    """Train to the end; the learning rate falls to 0 at the last step that fits."""
    first = time.monotonic()
    known, at_known = 0.0, 0
    losses: list[float] = []
    waiting: torch.Tensor | None = None
    while trainer.step < LEAST or (time.monotonic() < end and trainer.step < trainer.config.steps):
        loss = _step(run, trainer)
        # The loss of the step before is read, while the GPU computes this one.
        if waiting is not None:
            losses.append(float(waiting))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f'step {trainer.step}: the loss is {losses[-1]}')
        waiting = loss
        if trainer.step == KNOWN // 2:
            run.synchronize()
            known, at_known = time.monotonic(), trainer.samples
            run.note(seconds_of_first_steps=known - first)
        elif trainer.step > KNOWN and trainer.step % KNOWN == 1:
            run.note(**_progress(run, trainer, losses, known, at_known))
            if trainer.step == KNOWN + 1:
                each = (time.monotonic() - known) / (trainer.step - KNOWN // 2)
                steps = trainer.step + int((end - time.monotonic()) / each)
                trainer.config = replace(trainer.config, steps=max(steps, trainer.step + 1))
    run.synchronize()
    run.note(**_progress(run, trainer, losses, known or first, at_known))


def _step(run: Run, trainer: Trainer) -> torch.Tensor:
    """Take a step; the first one with smaller batches, or not compiled, if that is needed."""
    while True:
        try:
            return trainer.train_step()
        except torch.cuda.OutOfMemoryError:
            smaller = int(0.8 * trainer.config.batch_size)
            if trainer.step or not smaller:
                raise
            run.note(too_large_a_batch=trainer.config.batch_size)
            trainer.config = replace(trainer.config, batch_size=smaller)
        except Exception as error:
            if trainer.step or not trainer.config.compile:
                raise
            run.note(not_compiled=str(error).strip().partition('\n')[0][:200])
            trainer.config = replace(trainer.config, compile=False)
            trainer.forward = trainer.network
        trainer.optimizer.zero_grad(set_to_none=True)
        if run.device.type == 'cuda':
            torch.cuda.empty_cache()


def _progress(
    run: Run, trainer: Trainer, losses: list[float], since: float, before: int
) -> dict[str, Any]:
    """Return what a run has done so far."""
    found = {
        'batch': trainer.config.batch_size,
        'compiled': trainer.config.compile,
        'steps': trainer.step,
        'scans': trainer.samples,
        'scans_per_s': (trainer.samples - before) / (time.monotonic() - since),
        # Means of tenths of the run.
        'loss': [sum(part) / len(part) for part in _tenths(losses)],
    }
    if run.device.type == 'cuda':
        found['peak_gb'] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _tenths(values: list[float]) -> list[list[float]]:
    size = max(1, math.ceil(len(values) / 10))
    return [values[i : i + size] for i in range(0, len(values), size)]


def cut(path: Path) -> int:
    """Cut a file into pieces that are joined by ``cat``; return how many."""
    content = path.read_bytes()
    pieces = range(0, len(content), PIECE)
    for number, first in enumerate(pieces):
        path.with_name(f'{path.name}.{number}').write_bytes(content[first : first + PIECE])
    path.unlink()
    return len(pieces)
