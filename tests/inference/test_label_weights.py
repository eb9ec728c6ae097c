"""Weights with which a label map has the volumes that its posteriors sum to."""

import numpy as np
import pytest
import torch

from synthseg_bids.inference.label_weights import LARGEST, label_weights
from synthseg_bids.inference.postprocess import most_likely
from synthseg_bids.inference.resample_posteriors import resample_labels
from synthseg_bids.labels import LESION

LABELS = (0, 2, 3, 41, 42, LESION)
N = 40


def uncertain_border(of_cortex: float, size: int = 20) -> torch.Tensor:
    """Posteriors of white matter next to a layer that is more likely cortex than not."""
    n = N - 8
    noise = 0.2 * torch.rand(n, n, size, generator=torch.Generator().manual_seed(0))
    head = torch.zeros(len(LABELS), n, n, n)
    head[2, :, :, :size] = of_cortex - 0.1 + noise
    head[1] = 1 - head[2]
    posteriors = torch.nn.functional.pad(head, (4,) * 6)
    posteriors[0] = 1 - posteriors.sum(0)
    return posteriors


def volumes(posteriors: torch.Tensor, weights: torch.Tensor | None) -> dict[int, int]:
    box = tuple(slice(0, n) for n in posteriors.shape[1:])
    shapes = posteriors.shape[1:], posteriors.shape[1:]
    found, _ = resample_labels(posteriors, box, *shapes, np.ones(3), LABELS, weights=weights)
    return {label: int((found == label).sum()) for label in LABELS}


@pytest.mark.parametrize('of_cortex', [0.45, 0.55])
def test_label_maps_have_the_volumes_that_posteriors_sum_to(of_cortex):
    posteriors = uncertain_border(of_cortex)
    before = volumes(posteriors, None)
    after = volumes(posteriors, label_weights(posteriors, LABELS))
    for label, channel in ((2, 1), (3, 2)):
        expected = float(posteriors[channel].sum())
        assert abs(before[label] / expected - 1) > 0.1
        assert after[label] == pytest.approx(expected, rel=0.03)


def test_background_keeps_its_weight():
    assert label_weights(uncertain_border(0.55), LABELS)[0] == 1


def test_lesions_keep_their_weight():
    posteriors = uncertain_border(0.5)
    posteriors[-1] = 0.2 * posteriors[1]
    posteriors[1] *= 0.8
    assert label_weights(posteriors, LABELS)[-1] == 1
    assert volumes(posteriors, label_weights(posteriors, LABELS))[LESION] == 0


def test_both_sides_have_one_weight():
    weights = label_weights(uncertain_border(0.55), LABELS)
    assert weights[1] == weights[3] != 1
    assert weights[2] == weights[4] != 1


def test_weights_are_bounded():
    weights = label_weights(uncertain_border(0.65, size=32), LABELS)
    assert weights.max() <= LARGEST + 1e-6
    assert weights.min() >= 1 / LARGEST - 1e-6


def test_sure_posteriors_have_weights_that_change_nothing():
    posteriors = uncertain_border(0.55).round()
    assert volumes(posteriors, label_weights(posteriors, LABELS)) == volumes(posteriors, None)


def test_the_most_likely_labels_may_be_given():
    posteriors = uncertain_border(0.55)
    given = label_weights(posteriors, LABELS, most_likely(posteriors))
    assert torch.equal(given, label_weights(posteriors, LABELS))


def test_nothing_has_weights_of_one():
    assert torch.equal(label_weights(torch.zeros(6, 0, 0, 0), LABELS), torch.ones(6))


def test_posteriors_are_kept_as_they_are():
    posteriors = uncertain_border(0.55)
    box = tuple(slice(0, n) for n in posteriors.shape[1:])
    shapes = posteriors.shape[1:], posteriors.shape[1:]
    arguments = posteriors, box, *shapes, np.ones(3), LABELS, True
    _, kept = resample_labels(*arguments)
    _, weighted = resample_labels(*arguments, weights=label_weights(posteriors, LABELS))
    np.testing.assert_array_equal(weighted, kept)
