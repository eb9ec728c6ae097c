"""Contrasts of real sequences, simulated from relaxation times of tissues.

The paper draws all intensities uniformly, so that a network makes no assumptions. Most real scans
are T1w, T2w, PDw or FLAIR, whose intensities follow from the sequences' signal equations with
proton densities and relaxation times of the literature. Both get a wide scatter: tissue parameters
vary with field strength, age and pathology, sequence parameters with sites.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..labels import generation_labels, unsided_classes
from .sampling import uniform

#: T1 and T2 in ms at 3 T, and proton density relative to water. Wansapura et al. 1999, Gelman et
#: al. 2001, Stanisz et al. 2005, Rooney et al. 2007, Bojorquez et al. 2017 (review).
TISSUES: dict[str, tuple[float, float, float]] = {
    'white matter': (840, 72, 0.70),
    'cortex': (1400, 95, 0.82),
    'cerebellar white matter': (890, 76, 0.72),
    'cerebellar cortex': (1350, 95, 0.82),
    'brainstem': (970, 78, 0.74),
    'ventral DC': (990, 72, 0.75),
    'thalamus': (1130, 76, 0.77),
    'caudate': (1340, 84, 0.82),
    'putamen': (1230, 74, 0.81),
    'accumbens': (1360, 88, 0.82),
    'pallidum': (970, 57, 0.75),
    'hippocampus and amygdala': (1410, 100, 0.83),
    'lesion': (1500, 160, 0.86),
    'choroid plexus': (1700, 180, 0.90),
    'fluid': (4000, 1200, 1.0),
    'blood': (1700, 90, 0.90),
    'muscle': (1250, 35, 0.78),
    'fat': (380, 80, 0.90),
    'skin': (900, 40, 0.72),
    'marrow': (550, 60, 0.65),
    'eye': (3200, 600, 1.0),
    'bone': (350, 2, 0.15),
    'air': (1000, 10, 0.0),
}

#: The same for newborns, whose unmyelinated white matter is darker than cortex in T1w and brighter
#: in T2w scans. Williams et al. 2005, Nossin-Manor et al. 2013 and 2015 (3 T, rounded).
NEWBORN: dict[str, tuple[float, float, float]] = {
    'white matter': (2450, 220, 0.91),
    'cortex': (1950, 145, 0.88),
    'cerebellar white matter': (2050, 170, 0.88),
    'cerebellar cortex': (1850, 145, 0.87),
    'brainstem': (1650, 135, 0.85),
    'ventral DC': (1700, 130, 0.85),
    'thalamus': (1750, 130, 0.86),
    'caudate': (1900, 145, 0.87),
    'putamen': (1800, 140, 0.87),
    'accumbens': (1900, 145, 0.87),
    'pallidum': (1700, 130, 0.86),
    'hippocampus and amygdala': (1950, 155, 0.88),
    'lesion': (2700, 300, 0.94),
}

#: By how much less mature deep white matter may be than the rest, on the scale from newborns (0)
#: to adults (1). Around birth its T2 is often the longest (Maalouf et al. 1999, Hagmann et al.
#: 2009); later it is ahead.
BEHIND = 0.15

#: Tissue of each generation label of the left side or without side; extra-cerebral labels draw one
#: of :data:`OUTSIDE`.
TISSUE_OF = {
    0: 'air', 2: 'white matter', 3: 'cortex', 4: 'fluid', 5: 'fluid', 14: 'fluid', 15: 'fluid',
    24: 'fluid', 72: 'fluid', 7: 'cerebellar white matter', 8: 'cerebellar cortex',
    16: 'brainstem', 85: 'white matter', 28: 'ventral DC', 10: 'thalamus', 11: 'caudate',
    12: 'putamen', 13: 'pallidum', 17: 'hippocampus and amygdala', 18: 'hippocampus and amygdala',
    26: 'accumbens', 25: 'lesion', 30: 'blood', 136: 'choroid plexus', 137: 'choroid plexus',
}  # fmt: skip
OUTSIDE = ('muscle', 'fat', 'skin', 'marrow', 'eye', 'bone', 'air', 'blood')

#: Unsided class of the cerebral white matter.
WHITE_MATTER_CLASS = unsided_classes()[[la.index for la in generation_labels()].index(2)]

#: Standard deviations of the logarithms of T1, T2 and proton density, drawn for each tissue.
SCATTER = (0.08, 0.10, 0.03)

#: Range of the factor on every T1: 1.5 T shortens it by a fifth, 7 T would lengthen it by a third.
FIELD_STRENGTH = (0.75, 1.15)

#: Range of the brain's brightest tissue, for intensities in [0, 255].
BRIGHTEST = (150, 240)

#: Range of the noise's standard deviation, as a fraction of the brain's median, and largest
#: standard deviation of differences within a tissue, as a fraction of its mean.
NOISE = (0.01, 0.08)
HETEROGENEITY = 0.10


def gradient_echo(
    t1: Tensor, t2: Tensor, pd: Tensor, angle_deg: float, period: float, echo: float
) -> Tensor:
    """Return the signal of a spoiled gradient echo (FLASH, SPGR; Ernst equation). Times in ms."""
    angle, recovery = math.radians(angle_deg), torch.exp(-period / t1)
    steady = pd * math.sin(angle) * (1 - recovery) / (1 - math.cos(angle) * recovery)
    return steady * torch.exp(-echo / t2)


def mprage(
    t1: Tensor,
    t2: Tensor,
    pd: Tensor,
    period: float,
    inversion: float,
    angle_deg: float,
    spacing: float,
    train: float,
) -> Tensor:
    """Return the signal at the middle of MPRAGE's echo train (Deichmann et al. 2000). Times in ms.

    The magnetisation is inverted, recovers, approaches a steady state during the echo train of
    duration `train` centred on the inversion time, and recovers until the next inversion.
    """
    angle, rest = math.radians(angle_deg), inversion - train / 2
    driven = 1 / (1 / t1 - math.log(math.cos(angle)) / spacing)
    recovery = torch.exp(-spacing / t1)
    level = pd * (1 - recovery) / (1 - math.cos(angle) * recovery)
    before, half = torch.exp(-rest / t1), torch.exp(-train / 2 / driven)
    after = torch.exp(-(period - rest - train) / t1)
    # Steady state before the inversion: start = offset - after half^2 before start.
    offset = pd * (1 - after) + after * (level * (1 - half**2) + half**2 * pd * (1 - before))
    start = offset / (1 + after * half**2 * before)
    at_echoes = pd - (pd + start) * before
    return math.sin(angle) * (level + (at_echoes - level) * half).abs() * torch.exp(-3 / t2)


def spin_echo(t1: Tensor, t2: Tensor, pd: Tensor, period: float, echo: float) -> Tensor:
    """Return the signal of a spin echo. Times in ms."""
    return pd * (1 - torch.exp(-period / t1)) * torch.exp(-echo / t2)


def flair(
    t1: Tensor, t2: Tensor, pd: Tensor, period: float, nulling: float, echo: float
) -> Tensor:
    """Return the signal of FLAIR; `nulling` scales the inversion time that nulls CSF. In ms."""
    csf = TISSUES['fluid'][0]
    inversion = nulling * csf * (math.log(2) - math.log1p(math.exp(-period / csf)))
    recovered = 1 - 2 * torch.exp(-inversion / t1) + torch.exp(-period / t1)
    return pd * recovered.abs() * torch.exp(-echo / t2)


@dataclass(frozen=True)
class Sequence:
    """A sequence with the ranges of its parameters.

    Attributes
    ----------
    contrast : str
        BIDS suffix.
    share : float
        Probability that it is drawn.
    signal : callable
        Computes the signal from T1, T2, proton density and parameters.
    ranges : tuple of (float, float)
        Ranges of the parameters, in the order of `signal`.
    """

    contrast: str
    share: float
    signal: Callable[..., Tensor]
    ranges: tuple[tuple[float, float], ...]


SEQUENCES = (
    Sequence('T1w', 0.2, mprage, ((1800, 2600), (800, 1150), (7, 12), (6, 9), (900, 1300))),
    Sequence('T1w', 0.15, gradient_echo, ((12, 35), (7, 35), (2, 9))),
    Sequence('T1w', 0.05, spin_echo, ((350, 750), (8, 20))),
    Sequence('T2w', 0.25, spin_echo, ((2500, 9000), (75, 130))),
    Sequence('PDw', 0.15, spin_echo, ((1800, 5000), (8, 35))),
    Sequence('FLAIR', 0.2, flair, ((6000, 11000), (0.88, 1.08), (80, 140))),
)


def _tissues(maturity: float) -> dict[str, tuple[float, float, float]]:
    """Interpolate logarithmically between newborns (0) and adults (1)."""
    mixed = dict(TISSUES)
    for name, newborn in NEWBORN.items():
        t1, t2, pd = (
            young ** (1 - maturity) * old**maturity
            for young, old in zip(newborn, TISSUES[name], strict=True)
        )
        mixed[name] = (t1, t2, pd)
    return mixed


def _draw_tissues(generator: torch.Generator, unmyelinated: bool) -> Tensor:
    """Draw T1, T2 and proton density of each unsided class, then of deep white matter."""
    table = deep = TISSUES
    if unmyelinated:
        maturity = float(torch.rand(1, generator=generator))
        difference = float(uniform((-BEHIND, 1 - maturity), generator, 1))
        table, deep = _tissues(maturity), _tissues(maturity + difference)
    tissues = [TISSUES['air']] * (max(unsided_classes()) + 1)
    for label, row in zip(generation_labels(), unsided_classes(), strict=True):
        if label.side != 'right':
            which = int(torch.randint(len(OUTSIDE), (1,), generator=generator))
            tissues[row] = table[TISSUE_OF.get(label.index, OUTSIDE[which])]
    scatter = torch.randn(len(tissues), 3, generator=generator) * torch.tensor(SCATTER)
    # Deep white matter differs from the rest by its maturity alone.
    tissues.append(deep['white matter'])
    scatter = torch.cat([scatter, scatter[WHITE_MATTER_CLASS : WHITE_MATTER_CLASS + 1]])
    drawn = torch.tensor(tissues) * scatter.exp_()
    drawn[:, 0] *= uniform(FIELD_STRENGTH, generator, 1)
    return drawn


def draw_realistic(
    generator: torch.Generator, contrast: str | None = None, unmyelinated: bool = False
) -> tuple[Tensor, Tensor, float]:
    """Draw the Gaussians of a scan with a real sequence.

    Parameters
    ----------
    generator : torch.Generator
    contrast : str, optional
        Contrast in :data:`SEQUENCES` (default: any, with their probabilities).
    unmyelinated : bool
        Whether tissues are those of a child between birth and the end of myelination.

    Returns
    -------
    means, stds : (n_generation_labels,) tensor
        For intensities in [0, 255]; left and right are equal.
    deep_mean : float
        Mean of deep white matter; equal to that of the rest if it is grown.
    """
    tissues, rows = _draw_tissues(generator, unmyelinated), torch.tensor(unsided_classes())
    choices = [one for one in SEQUENCES if contrast in (None, one.contrast)]
    shares = torch.tensor([one.share for one in choices])
    sequence = choices[int(torch.multinomial(shares, 1, generator=generator))]
    parameters = [float(uniform(bounds, generator, 1)) for bounds in sequence.ranges]
    means = sequence.signal(*tissues.T, *parameters)
    labels = zip(rows.tolist(), generation_labels(), strict=True)
    brain = means[sorted({row for row, label in labels if label.target})]
    scale = uniform(BRIGHTEST, generator, 1) / torch.maximum(brain.max(), means[-1])
    noise = uniform(NOISE, generator, 1) * scale * brain.median()
    # Fat may outshine the brain, up to where scanners clip.
    means, deep = (scale * means).clamp(max=300).split([len(means) - 1, 1])
    within = HETEROGENEITY * means * torch.rand(len(means), generator=generator)
    return means[rows], torch.hypot(within, noise)[rows], float(deep)
