"""Calibrate posteriors by temperature and biases; expected calibration error.

Bias-corrected temperature scaling (Alexandari et al., "Maximum likelihood with bias-corrected
calibration is hard-to-beat at label shift adaptation", ICML 2020): a trained network's logits are
divided by one number, the temperature (Guo et al., "On calibration of modern neural networks",
ICML 2017), and a bias is added to each channel. With the biases the posteriors of each structure
sum to its true volume, which soft Dice overestimates where a structure is uncertain (Bertels et
al. 2021).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..inference.engine import Engine, blocks
from ..labels import LESION, mirror_channels
from ..models.card import ModelCard, number_format, save_model
from ..models.registry import load_model
from ..models.unet import UNet3D, fold_voxels, pad_to_multiple
from ..synth.label_maps import LabelMap, LabelMapError, generate, load_label_map
from ..synth.presets import PRESETS, VALIDATION_PRESETS, evaluation_config

logger = logging.getLogger(__name__)

#: Presets of the scans: random contrasts, and what our own networks are trained for, half of it
#: with the contrasts of real sequences.
CALIBRATION_PRESETS = (*VALIDATION_PRESETS, 'synthseg-bids')
#: Bins of the expected calibration error (Guo et al., section 2).
BINS = 15
#: Range of temperatures, and tolerance of the fitted logarithm.
RANGE = (0.25, 4.0)
PRECISION = 1e-3
#: Number of voxels to draw from a scan.
VOXELS = 40_000
#: Voxels with a larger posterior of background are left out, if they are background.
SURE_BACKGROUND = 0.98
#: Rounds of the fit of the biases, and the relative error of a volume that ends it.
ROUNDS, VOLUME_ERROR = 50, 1e-3
#: Structures of fewer voxels have no bias of their own.
MIN_VOXELS = 200
#: Far from the seeds of training and of its validation scans, which start at 0.
FIRST_SEED = 2**41


def averaged(passes: Sequence[Tensor], temperature: float, bias: Tensor | float = 0) -> Tensor:
    """Average the posteriors of several forward passes, with temperature and biases.

    Parameters
    ----------
    passes : sequence of (n_voxels, n_channels) tensor
        Logits of the same voxels, such as of a scan and of its mirror image.
    temperature : float
    bias : (n_channels,) tensor, optional
        Added to the logits that were divided by the temperature.

    Returns
    -------
    (n_voxels, n_channels) tensor
    """
    return torch.stack([(logits / temperature + bias).softmax(-1) for logits in passes]).mean(0)


def log_loss(posteriors: Tensor, target: Tensor) -> float:
    """Return the mean negative logarithm of the true channel's posterior."""
    picked = posteriors.gather(-1, target[:, None].long())
    return float(-picked.clamp_min(1e-12).log().mean())


def fit_temperature(passes: Sequence[Tensor], target: Tensor) -> float:
    """Return the temperature of the largest likelihood of the true channels.

    Parameters
    ----------
    passes : sequence of (n_voxels, n_channels) tensor
        See :func:`averaged`.
    target : (n_voxels,) integer tensor

    Returns
    -------
    float
        Within `RANGE`; found by its logarithm, in which the loss has a single minimum for one
        pass, and nearly so for an average.
    """
    found = minimize_scalar(
        lambda exponent: log_loss(averaged(passes, math.exp(exponent)), target),
        bounds=[math.log(bound) for bound in RANGE],
        method='bounded',
        options={'xatol': PRECISION},
    )
    return math.exp(found.x)


def fit_bias(
    passes: Sequence[Tensor],
    target: Tensor,
    temperature: float,
    mirror: Tensor,
    fixed: Sequence[int] = (),
) -> Tensor:
    """Return the biases with which posteriors sum to the true number of voxels of each channel.

    That is where the likelihood of the true channels has no slope along any bias.

    Parameters
    ----------
    passes : sequence of (n_voxels, n_channels) tensor
        See :func:`averaged`.
    target : (n_voxels,) integer tensor
    temperature : float
    mirror : (n_channels,) integer tensor
        Channel of the same structure on the other side, which has the same bias.
    fixed : sequence of int
        Channels without a bias, and of background.

    Returns
    -------
    (n_channels,) tensor
        0 for background, for `fixed` and for structures of fewer than `MIN_VOXELS` voxels.
    """
    count = torch.bincount(target.long(), minlength=len(mirror)).float()
    count = count + count[mirror]
    fitted = count >= MIN_VOXELS
    fitted[list(fixed)] = False
    before = [(logits / temperature).softmax(-1) for logits in passes]
    factor = torch.ones(len(mirror))
    for _ in range(ROUNDS):
        # The posteriors of biased logits are the former ones times a factor, normalised.
        sums = [one.T @ (1 / (one @ factor)) for one in before]
        volume = factor * torch.stack(sums).mean(0)
        ratio = (volume + volume[mirror]) / count
        if not fitted.any() or float((ratio[fitted] - 1).abs().max()) < VOLUME_ERROR:
            break
        factor[fitted] /= ratio[fitted]
        factor[fitted] /= factor[0].clone()
    return factor.log()


def calibration_error(posteriors: Tensor, target: Tensor) -> float:
    """Return the expected calibration error.

    Parameters
    ----------
    posteriors : (n_voxels, n_channels) tensor
    target : (n_voxels,) integer tensor

    Returns
    -------
    float
        Mean absolute difference, in [0, 1], between posterior and accuracy of the most likely
        channels, over `BINS` bins of equal width weighted by their voxels.
    """
    best, channel = posteriors.max(-1)
    right = (channel == target).double()
    bins = (best * BINS).long().clamp_max(BINS - 1)
    gaps = torch.bincount(bins, best.double() - right, minlength=BINS)
    return float(gaps.abs().sum() / len(target))


@torch.inference_mode()
def foreground_logits(
    engine: Engine, image: Tensor, target: Tensor, mirror: Tensor, source: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the logits of random voxels of the brain, in a straight and in a mirrored pass.

    Parameters
    ----------
    engine : Engine
    image : (x, y, z) float32 tensor
        In [0, 1].
    target : (x, y, z) uint8 tensor
        Channel of each voxel.
    mirror : (n_channels,) integer tensor
        Channel permutation of a left/right flip.
    source : torch.Generator
        Draws `VOXELS` of those that are not background in the target, or not surely in the
        straight pass.

    Returns
    -------
    straight, mirrored : (n_voxels, n_channels) float32 tensor
    target : (n_voxels,) uint8 tensor
    """
    config = engine.config
    padded = pad_to_multiple(image[None, None], config.size_multiple)
    goal = pad_to_multiple(target[None, None], config.size_multiple)
    goal = fold_voxels(goal, config.sub_voxels)[0].cpu()
    features = engine.features(padded), engine.features(padded.flip(2))
    parts: list[tuple[Tensor, ...]] = []
    whole = [slice(0, n) for n in features[0].shape[2:]]
    for block in blocks(whole, config.positions, features[0].device):
        passes = engine.logits(features[0], block), engine.logits(features[1], block, mirror)
        rows = [logits.movedim(1, -1).flatten(0, 3).cpu() for logits in passes]
        truth = goal[(slice(None), *block)].flatten()
        shown = (truth != 0) | (rows[0].softmax(-1)[:, 0] < SURE_BACKGROUND)
        parts.append((*(logits[shown] for logits in rows), truth[shown]))
    straight, mirrored, found = (torch.cat(part) for part in zip(*parts, strict=True))
    chosen = torch.randperm(len(found), generator=source)[:VOXELS]
    return straight[chosen], mirrored[chosen], found[chosen]


def synthetic_logits(
    engine: Engine, label_maps: Sequence[LabelMap], card: ModelCard, scans: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the logits of voxels of synthetic scans; see :func:`foreground_logits`.

    Parameters
    ----------
    engine : Engine
    label_maps : sequence of LabelMap
    card : ModelCard
        Card of the network, for its spacing and labels.
    scans : int
        Number of scans per label map and preset.
    """
    mirror = torch.as_tensor(mirror_channels(card.labels))
    lesions = LESION in card.labels
    parts = []
    for number, label_map in enumerate(one.to(engine.device) for one in label_maps):
        factor = max(round(card.spacing_mm / label_map.spacing_mm), 1)
        own = replace(PRESETS['synthseg-bids'], downsampling=factor, lesion_label=lesions)
        for preset in CALIBRATION_PRESETS:
            config = evaluation_config(preset, own)
            for i in range(scans):
                source = torch.Generator().manual_seed(FIRST_SEED + 1000 * number + i)
                image, target, _ = generate(label_map, config, source)
                parts.append(foreground_logits(engine, image, target, mirror, source))
    straight, mirrored, target = (torch.cat(part) for part in zip(*parts, strict=True))
    return straight, mirrored, target


@torch.no_grad()
def set_calibration(network: UNet3D, temperature: float, bias: Tensor | None = None) -> None:
    """Divide a network's logits by a temperature and add biases, in its output layer's weights."""
    for parameter in network.likelihood.parameters():
        parameter.div_(temperature)
    if bias is not None:
        of_output = network.likelihood.bias
        assert of_output is not None
        of_output.add_(bias.repeat(network.config.positions).to(of_output))


def calibrate_model(
    model: str | Path,
    fit: Sequence[Path],
    check: Sequence[Path],
    out: Path,
    scans: int,
    device: torch.device,
    intensity_weight: float | None = None,
) -> dict[str, Any]:
    """Fit temperature and biases of a network and write the network with them.

    Parameters
    ----------
    model : str or Path
        Shipped model or weights file.
    fit, check : sequence of Path
        Label maps to fit on, and others to measure the calibration error on, which the network was
        not trained on.
    out : Path
        Weights file to write, the card beside it; may be `model` itself.
    scans : int
        Number of scans per label map and preset.
    device : torch.device
    intensity_weight : float, optional
        Weight of the intensities in the refinement, for the card (default: that of `model`).

    Returns
    -------
    dict
        ``temperature``, ``bias`` by label, ``fitted_on``, ``checked_on``,
        ``calibration_error_before`` and ``calibration_error``, as on the card.

    Raises
    ------
    LabelMapError
        If the network was trained on one of `check`, or if `fit` and `check` overlap.
    """
    names = [sorted(p.name for p in paths) for paths in (fit, check)]
    if not all(names) or {*names[0]} & {*names[1]}:
        on, off = (', '.join(found) or 'none' for found in names)
        raise LabelMapError(
            f'label maps to fit on ({on}) and to check on ({off}) are not apart; '
            'name different ones'
        )
    network, card = load_model(model)
    if seen := card.trained_on(check):
        raise LabelMapError(f'{", ".join(seen)}: {card.name} was trained on it; name others')
    facts = _fit_and_check(Engine(network, device), card, fit, check, scans)
    dtype = number_format(network)
    bias = torch.tensor([facts['bias'][str(label)] for label in card.labels])
    set_calibration(network, facts['temperature'], bias)
    weight = card.intensity_weight if intensity_weight is None else intensity_weight
    validation = {**card.validation, 'calibration': facts}
    card = replace(card, validation=validation, intensity_weight=weight)
    save_model(out, network, card, dtype)
    return facts


def _fit_and_check(
    engine: Engine, card: ModelCard, fit: Sequence[Path], check: Sequence[Path], scans: int
) -> dict[str, Any]:
    """Return temperature and biases, the calibration error without and with them, and the maps."""
    label_maps = [load_label_map(path) for path in fit]
    *passes, target = synthetic_logits(engine, label_maps, card, scans)
    temperature = fit_temperature(passes, target)
    mirror = torch.as_tensor(mirror_channels(card.labels))
    # Most scans have no lesions, of which those that have any would get too few. What a label map
    # does not distinguish has wrong volumes there.
    unknown = {label for label_map in label_maps for group in label_map.merged for label in group}
    fixed = [c for c, label in enumerate(card.labels) if label in {LESION, *unknown}]
    bias = fit_bias(passes, target, temperature, mirror, [*fixed, *mirror[fixed].tolist()])
    *passes, target = synthetic_logits(engine, [load_label_map(p) for p in check], card, scans)
    before, after = (
        calibration_error(averaged(passes, *values), target)
        for values in ((1.0, 0), (temperature, bias))
    )
    logger.info('temperature %.3f', temperature)
    logger.info('expected calibration error %.4f before, %.4f after', before, after)
    return {
        'temperature': temperature,
        'bias': {str(n): round(float(b), 4) for n, b in zip(card.labels, bias, strict=True)},
        'fitted_on': [p.name for p in fit],
        'checked_on': [p.name for p in check],
        'calibration_error_before': before,
        'calibration_error': after,
    }
