from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from synthseg_bids.labels import generation_labels
from synthseg_bids.synth.intensity import (
    IntensityConfig,
    bias_field,
    draw_intensities,
    normalise,
    rescale_percentiles,
)
from synthseg_bids.synth.presets import MIDL2020, SYNTHSEG2023

SIZE = (160, 160, 160)


def draws(config, count=300):
    generator = torch.Generator().manual_seed(0)
    return [draw_intensities(config, SIZE, generator) for _ in range(count)]


def test_gaussians_follow_the_ranges_of_2023():
    drawn = draws(SYNTHSEG2023.intensity)
    # label 16, brain-stem, stands for all: the background has rules of its own
    row = [label.index for label in generation_labels()].index(16)
    means = [float(d.means[row]) for d in drawn]
    stds = [float(d.stds[row]) for d in drawn]
    assert stats.kstest(means, stats.uniform(0, 250).cdf).pvalue > 0.01
    assert stats.kstest(stds, stats.uniform(0, 30).cdf).pvalue > 0.01


def test_classes_share_a_gaussian_only_if_asked():
    rows = {label.index: row for row, label in enumerate(generation_labels())}
    alone, shared = draws(MIDL2020.intensity, 1)[0], draws(SYNTHSEG2023.intensity, 1)[0]
    assert alone.means[rows[17]] != alone.means[rows[18]]
    assert shared.means[rows[17]] == shared.means[rows[18]]
    assert shared.means[rows[17]] != shared.means[rows[53]]


def test_symmetric_contrasts():
    config = IntensityConfig(symmetric_probability=1)
    labels = generation_labels()
    rows = {label.index: row for row, label in enumerate(labels)}
    means = draws(config, 1)[0].means
    mirrored = means[[rows[label.mirror] for label in labels]]
    assert torch.equal(means, mirrored)


def test_dark_background_frequencies():
    means = np.array([float(d.means[0]) for d in draws(SYNTHSEG2023.intensity, 2000)])
    assert abs((means == 0).mean() - 0.05) < 0.02
    assert abs(((means > 0) & (means < 15)).mean() - (0.25 + 0.7 * 15 / 250)) < 0.03


def test_gamma_of_2023():
    drawn = [np.log(d.gamma) for d in draws(SYNTHSEG2023.intensity)]
    assert stats.kstest(drawn, stats.norm(0, 0.5).cdf).pvalue > 0.01


def test_bias_field_is_smooth_and_positive():
    drawn = draws(MIDL2020.intensity, 1)[0]
    assert tuple(drawn.log_bias.shape) == (4, 4, 4)
    field = bias_field(drawn.log_bias, (40, 40, 40))
    assert field.min() > 0
    torch.testing.assert_close(field[0, 0, 0], drawn.log_bias[0, 0, 0].exp())
    assert field.log().diff(dim=0).abs().max() < drawn.log_bias.diff(dim=0).abs().max() / 9


def test_normalise_and_gamma():
    image = torch.tensor([[[-10.0, 0, 100, 500]]])
    expected = torch.tensor([[[0, 0, 1 / 9, 1.0]]])
    torch.testing.assert_close(normalise(image, 2, (0, 300)), expected)


def test_percentiles_are_those_of_numpy(rng):
    image = torch.from_numpy(rng.normal(size=(30, 30, 30))).float()
    low, high = np.percentile(image.numpy(), (0.5, 99.5))
    expected = ((image - low) / (high - low)).clamp(0, 1)
    assert (rescale_percentiles(image) - expected).abs().max() < 0.02
    assert rescale_percentiles(torch.ones(4, 4, 4)).abs().max() == 0
