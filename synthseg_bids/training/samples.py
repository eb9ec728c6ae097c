"""Training samples: which label maps and contrasts are drawn, and what a sample consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..labels import generation_labels, network_labels
from ..synth.label_maps import LabelMap
from ..synth.parameters import GeneratorConfig

#: Offset between the seeds of samples and those of the contrasts of steps.
FIRST_CONTRAST = 2**61


class Sample(NamedTuple):
    """A training sample.

    Attributes
    ----------
    image : (x, y, z) float32 tensor
    target : (x, y, z) uint8 tensor
        Network channels.
    groups : list of list of int
        Channels that its label map does not distinguish.
    """

    image: Tensor
    target: Tensor
    groups: list[list[int]]


def age_shares(label_maps: Sequence[LabelMap], weights: Mapping[str, float]) -> Tensor:
    """Return the probability of each label map, given relative frequencies of age groups.

    Parameters
    ----------
    label_maps : sequence of LabelMap
    weights : mapping of str to float
        Relative frequencies of age groups; 1 for groups that are not listed.

    Returns
    -------
    (n,) float64 tensor
        Sums to 1.
    """
    ages = [label_map.age_group for label_map in label_maps]
    shares = torch.tensor([weights.get(age, 1.0) / ages.count(age) for age in ages]).double()
    if not shares.sum() > 0:
        raise UsageError(f'age groups {sorted(set(ages))}: all have a weight of 0')
    return shares / shares.sum()


def merged_channels(label_map: LabelMap, config: GeneratorConfig, flip: bool) -> list[list[int]]:
    """Return groups of channels that a label map, mirrored or not, does not distinguish."""
    labels = network_labels(config.lesion_label)
    mirror = {label.index: label.mirror for label in generation_labels()}
    return [
        [labels.index(mirror[one] if flip else one) for one in group] for group in label_map.merged
    ]


def contrast_of_step(config: GeneratorConfig, seed: int, step: int) -> GeneratorConfig:
    """Return the generator's settings of a step; with priors, those of one contrast.

    All processes draw the same contrast, as SynthSeg-rule does (paper, section 3.2).
    """
    priors = config.intensity.priors
    if len(priors) < 2:
        return config
    source = torch.Generator().manual_seed(seed * 1_000_003 + step + FIRST_CONTRAST)
    which = torch.randint(len(priors), (1,), generator=source)
    chosen = (priors[int(which)],)
    return replace(config, intensity=replace(config.intensity, priors=chosen))
