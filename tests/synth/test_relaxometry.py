"""Intensities of real sequences: their equations, and that contrasts look as they should."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from synthseg_bids.labels import generation_labels
from synthseg_bids.synth.intensity import IntensityConfig, draw_intensities
from synthseg_bids.synth.relaxometry import (
    SEQUENCES,
    TISSUE_OF,
    TISSUES,
    draw_realistic,
    flair,
    gradient_echo,
    mprage,
)

ROWS = {label.index: row for row, label in enumerate(generation_labels())}
WHITE, CORTEX, FLUID = ROWS[2], ROWS[3], ROWS[24]
T1, T2, PD = torch.tensor([TISSUES[name] for name in ('white matter', 'cortex', 'fluid')]).T


def relaxed(m: float, milliseconds: float, t1: float) -> float:
    return 1 + (m - 1) * math.exp(-milliseconds / t1)


@pytest.mark.parametrize(
    ('period', 'inversion', 'angle', 'spacing', 'train'),
    [(2300, 900, 9, 7, 1099), (1800, 1150, 12, 6, 1302), (2600, 800, 7, 9, 909)],
)
def test_mprage_is_what_spins_do(period, inversion, angle, spacing, train):
    """Every pulse of ten periods, one after the other, instead of the closed form."""
    found = mprage(T1, torch.tensor(math.inf), PD, period, inversion, angle, spacing, train)
    for t1, pd, signal in zip(T1.tolist(), PD.tolist(), found.tolist(), strict=True):
        m, seen = 1.0, 0.0
        echoes = round(train / spacing)
        for _ in range(10):
            m = relaxed(-m, inversion - train / 2, t1)
            for echo in range(echoes):
                if echo == echoes // 2:
                    seen = abs(m) * math.sin(math.radians(angle))
                m = relaxed(m * math.cos(math.radians(angle)), spacing, t1)
            m = relaxed(m, period - inversion - train / 2, t1)
        assert signal == pytest.approx(pd * seen, abs=0.02 * math.sin(math.radians(angle)))


def test_gradient_echo_is_what_spins_do():
    found = gradient_echo(T1, torch.tensor(math.inf), PD, 25, 20, 4)
    for t1, pd, signal in zip(T1.tolist(), PD.tolist(), found.tolist(), strict=True):
        m = 1.0
        for _ in range(3000):
            seen = m * math.sin(math.radians(25))
            m = relaxed(m * math.cos(math.radians(25)), 20, t1)
        assert signal == pytest.approx(pd * seen, rel=1e-3)


@pytest.mark.parametrize('period', [6000, 11000])
def test_flair_nulls_fluid(period):
    dark = flair(T1, T2, PD, period, 1, 100)
    assert dark[2] == pytest.approx(0, abs=1e-6)
    assert dark[:2].min() > 0.05
    assert flair(T1, T2, PD, period, 0.8, 100)[2] > 0.05


@pytest.mark.parametrize(
    ('contrast', 'dark_to_bright', 'often'),
    [
        ('T1w', (FLUID, CORTEX, WHITE), 0.95),
        ('T2w', (WHITE, CORTEX, FLUID), 0.95),
        ('PDw', (WHITE, CORTEX), 0.9),
        ('FLAIR', (FLUID, WHITE, CORTEX), 0.75),
    ],
)
def test_contrasts_look_as_they_should(contrast, dark_to_bright, often):
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_realistic(generator, contrast)[0][list(dark_to_bright)] for _ in range(200)]
    ordered = [(means.diff() > 0).all() for means in drawn]
    assert often < sum(ordered) / len(ordered)
    # Not one contrast, but as many as there are sites.
    assert torch.stack([means[0] / means[1] for means in drawn]).log().std() > 0.05


def test_every_draw_is_an_image():
    generator = torch.Generator().manual_seed(0)
    mirror = [ROWS[label.mirror] for label in generation_labels()]
    brain = [row for row, label in enumerate(generation_labels()) if label.target]
    outside = []
    for _ in range(200):
        means, stds, deep_mean = draw_realistic(generator)
        assert len(means) == len(stds) == len(generation_labels())
        assert 0 <= means.min() < means.max() <= 300
        assert 150 <= means[brain].max() <= 240
        assert (stds > 0).all()
        assert (stds <= 0.13 * means.max()).all()
        assert torch.equal(means, means[mirror])
        assert torch.equal(stds, stds[mirror])
        assert means[0] == 0
        assert deep_mean == means[WHITE]
        outside.append(float(means[ROWS[507]]))
    # Extra-cerebral labels have no fixed tissue.
    assert min(outside) == 0
    assert max(outside) == 300


def test_tissues_are_of_labels_and_plausible():
    assert set(TISSUE_OF) <= set(ROWS)
    assert set(TISSUE_OF.values()) <= set(TISSUES)
    inside = {label.index for label in generation_labels()
              if label.side != 'right' and not label.extracerebral}  # fmt: skip
    assert inside == set(TISSUE_OF)
    assert all(t2 < t1 and 0 <= pd <= 1 for t1, t2, pd in TISSUES.values())
    assert sum(one.share for one in SEQUENCES) == pytest.approx(1)


@pytest.mark.parametrize('probability', [0, 0.3, 1])
def test_as_often_as_asked(probability):
    config = IntensityConfig(std=(99, 100), realistic_probability=probability)
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_intensities(config, (8, 8, 8), generator) for _ in range(300)]
    realistic = sum(bool(d.stds[WHITE] < 99) for d in drawn)
    assert stats.binomtest(realistic, 300, probability).pvalue > 0.01


@pytest.mark.parametrize(('contrast', 'sign'), [('T1w', -1), ('T2w', 1)])
def test_unmyelinated_white_matter_is_darker_in_t1w_and_brighter_in_t2w(contrast, sign):
    generator = torch.Generator().manual_seed(5)
    young, grown = [], []
    for _ in range(60):
        for unmyelinated, found in ((True, young), (False, grown)):
            means, *_ = draw_realistic(generator, contrast, unmyelinated)
            found.append(float((means[WHITE] - means[CORTEX]).sign()))
    # From birth, where it is reversed, to the end of myelination, where it is as in adults.
    assert 0.25 < sum(value == sign for value in young) / len(young) < 0.85
    assert sum(value == -sign for value in grown) / len(grown) > 0.9


@pytest.mark.parametrize(('contrast', 'sign'), [('T1w', 1), ('T2w', -1)])
def test_deep_white_matter_is_mostly_ahead_of_the_rest(contrast, sign):
    generator = torch.Generator().manual_seed(6)
    rise = []
    for _ in range(100):
        means, _, deep_mean = draw_realistic(generator, contrast, unmyelinated=True)
        assert 0 < deep_mean <= 240
        rise.append(sign * (deep_mean - float(means[WHITE])))
    assert 60 < sum(value > 0 for value in rise) < 90
    assert max(rise) > 40
    assert min(rise) < -5
