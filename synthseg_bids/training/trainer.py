"""Train a U-Net, on synthetic scans or, as a baseline, on real ones (:mod:`.supervised`).

Sample `i` of a run depends only on the run's seed and on `i` (with priors also on the contrast of
its step). A run that is interrupted and resumed is therefore identical to one that is not (on a
GPU except for the order of sums). Several processes (see :mod:`.distributed`) share the samples of
each step: `n` of them are equivalent to `n` times the batch size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..files import write_whole
from ..hardware.device import fast_dtype
from ..labels import LESION, network_labels
from ..measure.overlap import paper_dice
from ..models.average import average, describe
from ..models.card import ModelCard
from ..models.unet import NetworkConfig, UNet3D, pad_to_multiple
from ..models.upscale import upscale
from ..synth.label_maps import LabelMap, generate
from ..synth.parameters import GeneratorConfig
from ..synth.presets import VALIDATION_PRESETS, evaluation_config
from .config import TrainingConfig, learning_rate
from .distributed import ProcessGroup
from .losses import merge_channels, segmentation_losses, wl2
from .muon import Muon
from .samples import Sample, age_shares, contrast_of_step, merged_channels


class CheckpointError(ValueError):
    """A checkpoint cannot be resumed from."""


@dataclass
class Progress:
    """Progress after an epoch; one row of the learning curve."""

    step: int
    learning_rate: float
    loss: float
    samples_per_s: float
    seconds: float
    dice: dict[str, float]

    def row(self) -> dict[str, float]:
        """Return the row as column names and values."""
        named = {f'dice_{preset}': value for preset, value in self.dice.items()}
        return {k: v for k, v in vars(self).items() if k != 'dice'} | named


class Trainer:
    """A training run: network, optimiser, moving average and position.

    Parameters
    ----------
    config : TrainingConfig
    label_maps : sequence of LabelMap
        Training data; may be labelled scans.
    validation : sequence of LabelMap
        Held-out data for validation.
    device : torch.device
        Device for generation and training.
    ranks : ProcessGroup
        The processes of the run.
    """

    def __init__(
        self,
        config: TrainingConfig,
        label_maps: Sequence[LabelMap],
        validation: Sequence[LabelMap] = (),
        device: torch.device | None = None,
        ranks: ProcessGroup | None = None,
    ) -> None:
        spacings = sorted({round(one.spacing_mm, 2) for one in (*label_maps, *validation)})
        if len(spacings) > 1:
            found = ', '.join(f'{mm:g}' for mm in spacings)
            raise UsageError(f'label maps of {found} mm: resample them to one spacing')
        self.config = config
        self.ranks = ranks or ProcessGroup()
        self.device = device or torch.device('cpu')
        self.label_maps = [label_map.to(self.device) for label_map in label_maps]
        self.validation = list(validation)
        self._weights = self._channel_weights()
        self.shares = age_shares(self.label_maps, dict(config.age_weights))
        torch.manual_seed(config.seed)
        self.network = UNet3D(config.network).place(self.device)
        self.average = UNet3D(config.network).place(self.device).requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = self._make_optimizer()
        self.step = 0
        #: Number of samples over all processes.
        self.samples = 0
        self.seconds = 0.0
        #: Names, checksums and steps of the networks that the run started from, if any.
        self.started_from: dict[str, Any] = {}
        self.dtype = fast_dtype(self.device)
        shared = self.ranks.wrap(self.network)
        self.forward = torch.compile(shared) if config.compile else shared

    def _channel_weights(self) -> Tensor | None:
        """Return the weights of the channels in the cross-entropy; None if all are 1."""
        config, labels = self.config, network_labels(self.config.generator.lesion_label)
        if config.lesion_weight == 1 or LESION not in labels:
            return None
        weights = torch.ones(len(labels), device=self.device)
        weights[labels.index(LESION)] = config.lesion_weight
        return weights

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.config.optimizer == 'muon':
            return Muon(self.network, self.config.learning_rate, self.network.likelihood)
        return torch.optim.AdamW(
            self.network.parameters(), weight_decay=self.config.weight_decay, fused=True
        )

    def start_from(self, *models: tuple[UNet3D, ModelCard]) -> None:
        """Start from the weights of a trained network, such as a shipped one, or of several.

        Parameters
        ----------
        *models : tuple of UNet3D and ModelCard
            Networks, whose weights are averaged, with the cards to be named on the card of this
            run.

        Raises
        ------
        CheckpointError
            If their architectures differ from each other or, except as in
            :mod:`..models.upscale`, from that of this run.
        """
        networks, cards = zip(*models, strict=True)
        try:
            network = average(networks)
            if network.config != self.config.network:
                network = upscale(network, self.config.network)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        self.network.load_state_dict(network.state_dict())
        self.average.load_state_dict(network.state_dict())
        self.started_from = describe(cards)

    def sample(self, number: int) -> Sample:
        """Generate training sample `number` of this run."""
        source = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        which = int(torch.multinomial(self.shares, 1, generator=source))
        label_map = self.label_maps[which]
        config = contrast_of_step(self.config.generator, self.config.seed, self.step)
        if label_map.age_group == 'infant':
            config = replace(config, intensity=replace(config.intensity, unmyelinated=True))
        image, target, drawn = generate(label_map, config, source)
        return Sample(image, target, merged_channels(label_map, config, drawn.deformation.flip))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the current step."""
        if self.step < self.config.wl2_steps:
            return wl2(logits, target)
        config = self.config
        dice, entropy, volume = segmentation_losses(logits, target, self._weights)
        total = config.dice_weight * dice + config.cross_entropy_weight * entropy
        return total + config.volume_weight * volume

    def train_step(self) -> Tensor:
        """Do one optimiser step and return its loss on the samples of this process."""
        first = self.samples + self.ranks.rank * self.config.batch_size
        samples = [self.sample(first + i) for i in range(self.config.batch_size)]
        images = torch.stack([sample.image for sample in samples])[:, None]
        targets = torch.stack([sample.target for sample in samples])
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits, targets = self._logits(images, targets)
        x, y, z = targets.shape[1:]
        groups = [sample.groups for sample in samples]
        loss = self.loss(*merge_channels(logits[..., :x, :y, :z], targets, groups))
        return self._update(loss)

    def _update(self, loss: Tensor) -> Tensor:
        """Do an optimiser step with the gradients of a loss, which is returned without them."""
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(self.config, self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += self.ranks.size * self.config.batch_size
        self._update_average()
        return loss.detach()

    def _logits(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the targets of the same voxels."""
        network = self.config.network
        padded = pad_to_multiple(images, network.size_multiple)
        if network.sub_voxels == 1:
            return self.forward(padded), targets
        # One voxel of each block, alternating between steps: an eighth of the memory.
        position = self.step % network.positions
        x, y, z = np.unravel_index(position, (network.sub_voxels,) * 3)
        step = network.sub_voxels
        return self.forward(padded, position), targets[:, x::step, y::step, z::step]

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, a shorter average, to forget the random start.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        average, network = self.average, self.network
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.data.lerp_(value, 1 - decay)
        for kept, new in zip(average.buffers(), network.buffers(), strict=True):
            kept.copy_(new)

    def run(
        self,
        on_epoch: Callable[[Trainer, Progress], None],
        on_step: Callable[[Trainer, float], None] | None = None,
    ) -> None:
        """Train to the last step.

        Parameters
        ----------
        on_epoch : callable
            Called with the trainer and its progress after every epoch, and at the end.
        on_step : callable, optional
            Called with the trainer and the loss after every step.
        """
        self.ranks.check_same(self.step, self.network)
        losses: list[float] = []
        first, before = self.samples, self.seconds
        while self.step < self.config.steps:
            started = time.monotonic()
            loss = self.ranks.mean(float(self.train_step()))
            self.seconds += time.monotonic() - started
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f'step {self.step}: the loss is {loss}; lower the learning rate'
                )
            losses.append(loss)
            if self.step % self.config.epoch_steps == 0 or self.step == self.config.steps:
                self.ranks.check_same(self.step, self.network)
                progress = Progress(
                    step=self.step,
                    learning_rate=learning_rate(self.config, self.step - 1),
                    loss=sum(losses) / len(losses),
                    samples_per_s=(self.samples - first) / (self.seconds - before),
                    seconds=self.seconds,
                    dice=self.validate(),
                )
                on_epoch(self, progress)
                losses, first, before = [], self.samples, self.seconds
            # Last, since it may raise an exception to end the run.
            if on_step is not None:
                on_step(self, loss)

    @torch.no_grad()
    def validate(self, configs: Mapping[str, GeneratorConfig] | None = None) -> dict[str, float]:
        """Return the mean Dice over the paper's 12 structures on held-out label maps.

        Parameters
        ----------
        configs : mapping of str to GeneratorConfig, optional
            Generator settings by name (default: those of :data:`VALIDATION_PRESETS`).

        Returns
        -------
        dict
            Mean Dice by name, over one scan of each label map; scans are the same in every call.
        """
        if configs is None:
            own = self.config.generator
            configs = {name: evaluation_config(name, own) for name in VALIDATION_PRESETS}
        self.average.eval()
        for buffer in self.average.buffers():
            self.ranks.copy_first(buffer)
        labels = np.array(network_labels(self.config.generator.lesion_label))
        results = {}
        for name, config in configs.items() if self.validation else ():
            scores = torch.zeros(len(self.validation), dtype=torch.float64)
            for number in range(self.ranks.rank, len(self.validation), self.ranks.size):
                label_map = self.validation[number].to(self.device)
                source = torch.Generator().manual_seed(number)
                image, target, _ = generate(label_map, config, source)
                predicted, truth = (
                    labels[channels.cpu().numpy()] for channels in (self._predict(image), target)
                )
                scores[number] = paper_dice(predicted, truth)['mean']
            results[name] = float(self.ranks.sum(scores).mean())
        return results

    def _predict(self, image: Tensor) -> Tensor:
        """Return the most likely channel of each voxel of an image ``(x, y, z)``."""
        x, y, z = image.shape
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.average(
                pad_to_multiple(image[None, None], self.config.network.size_multiple)
            )
        return logits[0, :, :x, :y, :z].argmax(0)

    def save(self, path: Path) -> None:
        """Write a checkpoint from which a run resumes exactly."""
        state = {
            'network': self.network.state_dict(),
            'average': self.average.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'step': self.step,
            'samples': self.samples,
            'seconds': self.seconds,
            'architecture': asdict(self.config.network),
            'trained_on': self.label_maps[0].kind,
            'optimizer_name': self.config.optimizer,
            'started_from': self.started_from,
        }
        write_whole(path, lambda temporary: torch.save(state, temporary))

    def resume(self, path: Path) -> None:
        """Resume a run from a checkpoint.

        Raises
        ------
        CheckpointError
            If the file is damaged or belongs to another architecture.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise CheckpointError(f'{path}: not a checkpoint ({error})') from error
        # Older checkpoints lack newer options, which have their defaults.
        if NetworkConfig(**state['architecture']) != self.config.network:
            raise CheckpointError(
                f'{path}: trained with {state["architecture"]}, asked for '
                f'{asdict(self.config.network)}; use the same options or another folder'
            )
        kind, before = self.label_maps[0].kind, state.get('trained_on', LabelMap.kind)
        if before != kind:
            raise CheckpointError(
                f'{path}: trained on {before}, asked for {kind}; use another folder'
            )
        self.network.load_state_dict(state['network'])
        self.average.load_state_dict(state['average'])
        made_by = state.get('optimizer_name', 'adamw')
        if made_by != self.config.optimizer:
            raise CheckpointError(
                f'{path}: trained with {made_by}, asked for {self.config.optimizer}; use the same '
                'optimizer or another folder'
            )
        self.optimizer.load_state_dict(state['optimizer'])
        self.step, self.seconds = state['step'], state['seconds']
        # Older checkpoints, of single processes, lack this number.
        self.samples = state.get('samples', self.step * self.config.batch_size)
        self.started_from = state.get('started_from', {})

    def card(self, name: str, curve: Sequence[dict[str, Any]] = ()) -> ModelCard:
        """Return the model card of the current network.

        Parameters
        ----------
        name : str
        curve : sequence of dict
            Rows of the learning curve; the last one has the validation Dice.
        """
        spacing = self.label_maps[0].spacing_mm
        size = self.config.generator.size
        return ModelCard(
            name=name,
            network=self.config.network,
            spacing_mm=spacing * self.config.generator.downsampling,
            labels=network_labels(self.config.generator.lesion_label),
            crop_mm=size and (size[0] * spacing, size[1] * spacing, size[2] * spacing),
            training={
                'steps': self.step,
                'samples': self.samples,
                **({'started_from': self.started_from} if self.started_from else {}),
                'seconds': round(self.seconds),
                'device': self.device.type,
                self.label_maps[0].kind: [m.name for m in self.label_maps],
                'config': asdict(self.config),
            },
            validation={
                self.label_maps[0].kind: [m.name for m in self.validation],
                **({k: v for k, v in curve[-1].items() if k.startswith('dice_')} if curve else {}),
            },
        )
