"""Probabilities of tissues on the grid of a scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from posteriors import boxed_posteriors

from synthseg_bids.inference.resample_posteriors import resample_sums
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import network_labels
from synthseg_bids.measure.tissues import channels_of_parts, three_probabilities, three_tissues

LABELS = network_labels()
GROUPS = channels_of_parts(LABELS)


@pytest.mark.parametrize('steps', [(0.6, 0.7, 3.0), (1, 1, 1), (2.2, 0.4, 0.9)])
def test_sums_are_those_of_resampled_posteriors(steps):
    arguments, everywhere = boxed_posteriors(steps)
    found = resample_sums(*arguments, GROUPS)
    assert found.shape == (5, *everywhere.shape[1:])
    expected = torch.stack([everywhere[group].sum(0) for group in GROUPS]).numpy() * 255
    # Each is the difference of two rounded sums, and of what is below 1/512 nothing is kept.
    assert np.abs(found - expected).max() < 2.5
    total = found.sum(0, dtype=int)
    assert total.max() == 255
    assert np.abs(total - expected.sum(0)).max() < 2.5


def test_segmented_tissues_lie_on_the_scan(tiny_model, rng):
    """A scan in another orientation, with a network of random weights."""
    affine = np.array([[0, 0, 8.0, 0], [-8.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 0, 1]])
    segmenter = Segmenter(tiny_model, device='cpu', threads=1)
    data = rng.random((9, 10, 11), dtype=np.float32)
    found = segmenter.segment(data, affine, posteriors=True, tissues=True)
    assert found.tissues.shape == (5, *data.shape)
    assert segmenter.segment(data, affine).tissues is None
    for part, group in zip(found.tissues, GROUPS, strict=True):
        summed = found.posteriors[group].sum(0, dtype=int)
        assert np.abs(part - summed).max() <= len(group)
    # Where one tissue is certain, that of the label is it.
    probabilities = three_probabilities(found.tissues)
    certain = probabilities.max(0) > 200
    assert certain.any()
    tissues = three_tissues(found.labels)[certain]
    np.testing.assert_array_equal(tissues, probabilities.argmax(0)[certain] + 1)
