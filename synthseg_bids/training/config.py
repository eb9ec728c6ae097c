"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UsageError
from ..models.unet import NetworkConfig
from ..synth.generator import GeneratorConfig
from ..synth.presets import PRESETS


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training run.

    Attributes
    ----------
    network : NetworkConfig
        By default the paper's size, with instance normalisation after every convolution.
    generator : GeneratorConfig
    age_weights : tuple of (str, float)
        Relative frequency of each age group, shared equally by its label maps; 1 for groups that
        are not listed.
    steps : int
        Optimiser steps of the whole run.
    batch_size : int
    learning_rate : float
        Peak; reached after `warmup` steps, held, and decayed linearly to zero over the last
        `decay_fraction` of the run. Before the decay a run can still be prolonged.
    warmup : int
    decay_fraction : float
    optimizer : {'adamw', 'muon'}
    weight_decay, gradient_clip : float
        AdamW weight decay; gradient-norm clipping threshold.
    dice_weight, cross_entropy_weight, volume_weight : float
        Weights in the loss (:func:`synthseg_bids.training.losses.segmentation_losses`).
    lesion_weight : float
        Weight of the voxels of lesions in the cross-entropy. They are a thousandth of the brain or
        less, and at 1 a network that has learnt to ignore them hardly moves.
    wl2_steps : int
        Number of first steps with the reference's wl2 loss.
    ema_decay : float
        Decay of the exponential moving average of the weights, which is validated and saved.
    epoch_steps : int
        Steps between validations, each with a checkpoint and a row of the learning curve.
    seed : int
    compile : bool
        Compile the network (faster on GPUs).
    """

    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(norm='instance', norm_placement='conv')
    )
    generator: GeneratorConfig = field(default_factory=lambda: PRESETS['synthseg-bids'])
    age_weights: tuple[tuple[str, float], ...] = (('adult', 0.65), ('infant', 0.35))
    steps: int = 100_000
    batch_size: int = 1
    learning_rate: float = 1e-2
    warmup: int = 200
    decay_fraction: float = 0.4
    optimizer: str = 'adamw'
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    volume_weight: float = 0.0
    lesion_weight: float = 1.0
    wl2_steps: int = 0
    ema_decay: float = 0.998
    epoch_steps: int = 500
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        size, levels = self.generator.size, self.network.levels
        deepest = self.network.size_multiple * self.generator.downsampling
        if size and max(size) <= deepest and self.network.norm == 'instance':
            raise UsageError(
                f'crops of {" x ".join(map(str, size))} voxels: one voxel at the deepest of '
                f'{levels} levels cannot be normalised; ask for larger crops or fewer levels'
            )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, plateau, linear decay to zero.

    Examples
    --------
    >>> config = TrainingConfig(steps=1000, learning_rate=1, warmup=100, decay_fraction=0.5)
    >>> [learning_rate(config, step) for step in (49, 100, 500, 750)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = (config.steps - step) / max(config.steps * config.decay_fraction, 1)
    return config.learning_rate * max(0.0, min(rise, fall, 1.0))
