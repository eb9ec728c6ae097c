"""Scans of one contrast are brought to a common scale."""

from __future__ import annotations

import pytest
import torch

from synthseg_bids.inference.match_intensities import UnlikeError, common_scale


def matched(images, posteriors, near):
    """Return scans on their common scale."""
    scans = torch.stack(images)
    gain, offset = common_scale(scans, posteriors, near, 2.0)
    return scans * gain + offset


@pytest.fixture
def posteriors():
    """Three structures side by side, and background around them."""
    found = torch.zeros(4, 32, 24, 24)
    inside = (slice(4, -4), slice(4, -4))
    for channel, first in enumerate((4, 12, 20), 1):
        found[(channel, slice(first, first + 8), *inside)] = 1
    found[0] = 1 - found.sum(0)
    return found


@pytest.fixture
def head(posteriors):
    return posteriors[1] * 0.4 + posteriors[2] * 0.9 + posteriors[3] * 1.4


def test_gain_offset_and_bias_field_are_removed(posteriors, head):
    near = (posteriors[0] < 0.5).float()
    field = torch.exp(torch.linspace(-0.15, 0.15, 32))[:, None, None]
    one, other = matched([head, 1.3 * head * field + 0.05], posteriors, near)
    apart = (one - other)[near > 0].abs()
    assert apart.mean() < 0.03
    assert ((1.3 * head * field + 0.05) - head)[near > 0].abs().mean() > 0.2


def test_a_border_that_has_moved_stays_where_it_is(posteriors, head):
    near = (posteriors[0] < 0.5).float()
    grown = head.clone()
    grown[11, 4:-4, 4:-4] = 0.65  # half of a voxel of the dark structure is the next one's
    one, other = matched([head, grown], posteriors, near)
    apart = (other - one)[11, 8:-8, 8:-8].mean()
    assert float(apart) == pytest.approx(0.25, abs=0.05)


def test_other_contrasts_are_refused(posteriors, head):
    near = (posteriors[0] < 0.5).float()
    with pytest.raises(UnlikeError, match='differ in contrast'):
        matched([head, (1.8 - head) * near], posteriors, near)
