"""Random intensities: Gaussian mixture, bias field, gamma and normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..labels import generation_labels, unsided_classes
from ..linear import apply_along_axes, interpolation_matrix
from .relaxometry import draw_realistic
from .sampling import uniform

#: Upper end of the intensity range before normalisation.
WHITE = 255


@dataclass(frozen=True)
class ContrastPriors:
    """Gaussian hyperpriors of the classes' means and standard deviations in one contrast.

    Attributes
    ----------
    contrast : str
        BIDS suffix, such as ``T1w``.
    means, stds : tuple of (float, float)
        Mean and standard deviation of the hyperprior of each class of
        :func:`synthseg_bids.labels.unsided_classes`, for intensities in [0, 255].
    """

    contrast: str
    means: tuple[tuple[float, float], ...]
    stds: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class IntensityConfig:
    """Ranges of the random intensities (MIDL 2020 paper, Table 1).

    Attributes
    ----------
    mean, std : tuple of float
        Ranges of the uniform distributions of each label's Gaussian, for intensities in [0, 255].
    priors : tuple of ContrastPriors
        If any, Gaussians are drawn from the hyperpriors of a random one of these contrasts
        (SynthSeg-rule), the same for left and right.
    realistic_probability : float
        Probability that the Gaussians are those of a real sequence (:mod:`.relaxometry`).
    unmyelinated : bool
        Whether scans are of children between birth and the end of myelination, whose deep and
        outer white matter differ (:mod:`.myelination`).
    share_classes : bool
        Labels of one generation class share a Gaussian (2023); otherwise each has its own (2020).
    symmetric_probability : float
        Probability that left and right structures share a Gaussian, as in real scans. Otherwise
        they differ, which teaches the network to rely on shape and position (2023).
    dark_background : tuple of float
        Probabilities that the background is exactly 0, and that it is noise below 15 (2023).
    bias_std : tuple of float
        Range of the standard deviation of the bias field's logarithm.
    bias_fraction : float
        Size of the bias field's random grid as a fraction of the image's.
    bias_probability : float
        Probability of a bias field.
    gamma : float
        Width of the distribution of the logarithm of gamma.
    gamma_normal : bool
        Whether it is a normal distribution (2023) or a uniform one (2020).
    clip : tuple of float or None
        Intensities are clipped to this range before normalisation (2023).
    """

    mean: tuple[float, float] = (25, 225)
    std: tuple[float, float] = (5, 25)
    priors: tuple[ContrastPriors, ...] = ()
    realistic_probability: float = 0
    unmyelinated: bool = False
    share_classes: bool = False
    symmetric_probability: float = 0
    dark_background: tuple[float, float] = (0, 0)
    bias_std: tuple[float, float] = (0.5, 0.5)
    bias_fraction: float = 4 / 160
    bias_probability: float = 1
    gamma: float = 0.3
    gamma_normal: bool = False
    clip: tuple[float, float] | None = None


@dataclass(frozen=True)
class Intensities:
    """One drawn contrast.

    Attributes
    ----------
    means, stds : (n_generation_labels,) tensor
        Gaussian of each generation label, for intensities in [0, 255].
    log_bias : (i, j, k) tensor
        Logarithm of the bias field on its coarse grid.
    gamma : float
        Exponent of the normalised image.
    deep_mean : float or None
        Mean of deep white matter; None if it is that of the rest.
    """

    means: Tensor
    stds: Tensor
    log_bias: Tensor
    gamma: float
    deep_mean: float | None


def _draw_gaussians(
    config: IntensityConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, float | None]:
    """Draw mean and standard deviation of each label, and the mean of deep white matter."""
    labels = generation_labels()
    if config.priors:
        which = int(torch.randint(len(config.priors), (1,), generator=generator))
        priors, rows = config.priors[which], torch.tensor(unsided_classes())
        means, stds = (
            torch.normal(*torch.tensor(pairs).T, generator=generator).clamp_(min=0)
            for pairs in (priors.means, priors.stds)
        )
        return means[rows], stds[rows], None
    realistic = config.realistic_probability
    if realistic and float(torch.rand(1, generator=generator)) < realistic:
        means, stds, deep = draw_realistic(generator, unmyelinated=config.unmyelinated)
        return means, stds, deep if config.unmyelinated else None
    means = uniform(config.mean, generator, len(labels))
    stds = uniform(config.std, generator, len(labels))
    if config.share_classes:
        first: dict[int, int] = {}
        for row, label in enumerate(labels):
            first.setdefault(label.generation_class, row)
        rows = torch.tensor([first[label.generation_class] for label in labels])
        means, stds = means[rows], stds[rows]
    if not config.unmyelinated:
        return means, stds, None
    return means, stds, float(uniform(config.mean, generator, 1))


def draw_intensities(
    config: IntensityConfig, size: tuple[int, int, int], generator: torch.Generator
) -> Intensities:
    """Draw one contrast, bias field and gamma.

    Parameters
    ----------
    config : IntensityConfig
    size : tuple of int
        Size of the image; it decides the size of the bias field's grid.
    generator : torch.Generator

    Returns
    -------
    Intensities
    """
    labels = generation_labels()
    means, stds, deep_mean = _draw_gaussians(config, generator)
    if torch.rand(1, generator=generator) < config.symmetric_probability:
        row_of = {label.index: row for row, label in enumerate(labels)}
        rows = torch.tensor([min(row, row_of[la.mirror]) for row, la in enumerate(labels)])
        means, stds = means[rows], stds[rows]
    zero, noise = config.dark_background
    chance = float(torch.rand(1, generator=generator))
    dark = uniform((0, 15), generator, 1), uniform((0, 5), generator, 1)
    if chance < zero:
        means[0], stds[0] = 0, 0
    elif chance < zero + noise:
        means[0], stds[0] = dark[0][0], dark[1][0]
    std = uniform(config.bias_std, generator, 1)
    grid = [max(2, math.ceil(n * config.bias_fraction - 1e-6)) for n in size]
    log_bias = std * torch.randn(*grid, generator=generator)
    if torch.rand(1, generator=generator) >= config.bias_probability:
        log_bias = torch.zeros_like(log_bias)
    if config.gamma_normal:
        log_gamma = config.gamma * float(torch.randn(1, generator=generator))
    else:
        log_gamma = config.gamma * (2 * float(torch.rand(1, generator=generator)) - 1)
    return Intensities(means, stds, log_bias, math.exp(log_gamma), deep_mean)


def bias_field(log_bias: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Return the multiplicative bias field: resized linearly, then exponentiated (eq. 3).

    Parameters
    ----------
    log_bias : (i, j, k) tensor
    size : tuple of int

    Returns
    -------
    size tensor
        Positive, around 1.
    """
    x, y, z = (
        interpolation_matrix(torch.arange(n, device=log_bias.device) * (g / n), g)
        for n, g in zip(size, log_bias.shape, strict=True)
    )
    return apply_along_axes(log_bias, (x, y, z)).exp_()


def normalise(image: Tensor, gamma: float, clip: tuple[float, float] | None) -> Tensor:
    """Rescale an image to [0, 1] and raise it to the power gamma (eq. 4), in place.

    Parameters
    ----------
    image : (x, y, z) tensor
    gamma : float
    clip : tuple of float or None
        Clip to this range first.

    Returns
    -------
    (x, y, z) tensor
    """
    if clip is not None:
        image.clamp_(*clip)
    low, high = image.amin(), image.amax()
    return image.sub_(low).div_((high - low).clamp(min=1e-6)).pow_(gamma)


def rescale_percentiles(image: Tensor) -> Tensor:
    """Clip an image to the 0.5th and 99.5th percentile and rescale it to [0, 1].

    Parameters
    ----------
    image : (x, y, z) tensor

    Returns
    -------
    (x, y, z) tensor
        Zeros for a constant image.
    """
    # Percentiles of every 5th voxel: the difference is far below the noise.
    values = image.reshape(-1)[::5].sort().values
    bounds = [values[round((len(values) - 1) * q / 100)] for q in (0.5, 99.5)]
    span = bounds[1] - bounds[0]
    # A constant image becomes 0. To ask for the span would wait for a GPU.
    span = span.masked_fill(span <= 0, torch.inf)
    return ((image - bounds[0]) / span).clamp_(0, 1)
