"""Train the parcel network on label maps with parcels; no scan is involved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..inference.hemispheres import N_INPUTS, SPACING_MM
from ..inference.parcels import interpolate
from ..models.card import ModelCard
from ..models.unet import NetworkConfig
from ..parcels import PARCEL_NUMBERS
from ..synth.parameters import GeneratorConfig
from .config import TrainingConfig
from .distributed import ProcessGroup
from .losses import segmentation_losses
from .parcel_maps import ParcelMap
from .parcel_samples import (
    ParcelSample,
    ParcelSampleConfig,
    cortex_points,
    draw_parcel_sample,
    make_parcel_sample,
    parcel_input,
)
from .trainer import Trainer

#: Small, since scans take a second longer with it.
PARCEL_NETWORK = NetworkConfig(
    out_channels=len(PARCEL_NUMBERS),
    features=32,
    levels=3,
    encoder_convs=2,
    decoder_convs=1,
    norm='instance',
    norm_placement='conv',
    skip='add',
    sub_voxels=2,
    output_features=64,
    in_channels=N_INPUTS,
)


@dataclass(frozen=True)
class ParcelTrainingConfig(TrainingConfig):
    """Settings of a training of the parcel network; see :class:`.config.TrainingConfig`.

    Attributes
    ----------
    samples : ParcelSampleConfig
        Takes the place of the generator's settings.
    label_smoothing : float
        In the cross-entropy: borders of parcels differ between raters.
    """

    network: NetworkConfig = PARCEL_NETWORK
    steps: int = 3000
    learning_rate: float = 2.5e-3
    optimizer: str = 'muon'
    epoch_steps: int = 250
    ema_decay: float = 0.99
    warmup: int = 30
    samples: ParcelSampleConfig = field(default_factory=ParcelSampleConfig)
    label_smoothing: float = 0.05


class ParcelTrainer(Trainer):
    """A training run of the parcel network; see :class:`.trainer.Trainer`."""

    config: ParcelTrainingConfig
    label_maps: Sequence[ParcelMap]  # type: ignore[assignment]
    validation: Sequence[ParcelMap]  # type: ignore[assignment]

    def __init__(
        self,
        config: ParcelTrainingConfig,
        label_maps: Sequence[ParcelMap],
        validation: Sequence[ParcelMap] = (),
        device: torch.device | None = None,
        ranks: ProcessGroup | None = None,
    ) -> None:
        super().__init__(config, label_maps, validation, device, ranks)  # type: ignore[arg-type]

    def hemisphere(self, number: int) -> ParcelSample:
        """Make training sample `number` of this run."""
        source = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        which = int(torch.randint(len(self.label_maps), (1,), generator=source))
        person, config = self.label_maps[which], self.config.samples
        draw = draw_parcel_sample(config, person, source)
        return make_parcel_sample(config, person, draw, self.config.network.size_multiple, source)

    def train_step(self) -> Tensor:
        """Do one optimiser step and return its loss on the samples of this process."""
        first = self.samples + self.ranks.rank * self.config.batch_size
        losses = [
            self.parcel_loss(self.hemisphere(first + i)) for i in range(self.config.batch_size)
        ]
        return self._update(torch.stack(losses).mean())

    def parcel_loss(self, sample: ParcelSample) -> Tensor:
        """Return the loss of a sample: soft Dice and cross-entropy at its points."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.forward(sample.maps.to(self.device))
        values = interpolate(_rows(logits.cpu()), sample.places)
        dice, *_ = segmentation_losses(
            values.T[None, :, :, None, None], sample.target[None, :, None, None]
        )
        entropy = functional.cross_entropy(
            values, sample.target, label_smoothing=self.config.label_smoothing
        )
        return self.config.dice_weight * dice + self.config.cross_entropy_weight * entropy

    @torch.no_grad()
    def validate(self, configs: Mapping[str, GeneratorConfig] | None = None) -> dict[str, float]:
        """Return the mean Dice over parcels of people who were held out.

        Returns
        -------
        dict
            ``maps``: with the label maps as input. ``segmentations``: with segmentations, if there
            are any, against the parcels of the nearest cortex.
        """
        self.average.eval()
        scores: dict[str, list[float]] = {}
        for person in self.validation:
            for codes in person.hemispheres.values():
                for i, one in enumerate(codes):
                    name = 'segmentations' if i else 'maps'
                    scores.setdefault(name, []).append(self.score(one))
        return {name: sum(values) / len(values) for name, values in scores.items()}

    def score(self, codes: Tensor) -> float:
        """Return the mean Dice over the parcels of a hemisphere, of its cortex voxels."""
        maps, grid = parcel_input(codes, self.config.network.size_multiple)
        places, target = cortex_points(codes, grid, 0, torch.Generator())
        logits = self.average(maps.to(self.device)).cpu()
        found = interpolate(_rows(logits), places).argmax(1)
        n = len(PARCEL_NUMBERS)
        both = torch.bincount(target[found == target], minlength=n)
        sizes = torch.bincount(target, minlength=n) + torch.bincount(found, minlength=n)
        return float((2 * both[sizes > 0] / sizes[sizes > 0]).mean())

    def card(self, name: str, curve: Sequence[dict[str, Any]] = ()) -> ModelCard:
        """Return the model card of the current network; see :meth:`.trainer.Trainer.card`."""
        card = super().card(name, curve)
        card.training['config'] = {
            key: value for key, value in asdict(self.config).items() if key != 'generator'
        }
        return replace(card, spacing_mm=SPACING_MM, labels=PARCEL_NUMBERS, crop_mm=None)


def _rows(logits: Tensor) -> Tensor:
    """Move the channels of the logits of one hemisphere to the end."""
    return logits[0].movedim(0, -1).float().contiguous()
