"""White matter of children, which myelinates from the centre outwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_scans import PLAIN, ROWS

from synthseg_bids.synth.generator import apply
from synthseg_bids.synth.myelination import MyelinationConfig, deep_fraction
from synthseg_bids.synth.parameters import draw

EVEN = MyelinationConfig(front=(0.5, 0.5), width=(0.2, 0.2), unevenness=(0, 0))
OUTER, DEEP, CORTEX = 60.0, 180.0, 110.0


@pytest.fixture
def labels():
    """Return white matter of two sides, 32 voxels deep, and a gyrus, below cortex."""
    head = torch.full((48, 40, 44), ROWS[3], dtype=torch.uint8)
    head[..., :32] = ROWS[2]
    head[:24, :, :32] = ROWS[41]
    head[20:24, :, 32:40] = ROWS[41]
    return head


def drawn(labels, myelination=EVEN, seed=0, unmyelinated=True):
    intensity = replace(PLAIN.intensity, unmyelinated=unmyelinated)
    config = replace(PLAIN, intensity=intensity, myelination=myelination)
    return config, draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))


def test_deep_white_matter_is_far_from_the_cortex(labels):
    _, parameters = drawn(labels)
    share = deep_fraction(labels, parameters.myelination)
    assert ((share >= 0) & (share <= 1)).all()
    assert (share[labels == ROWS[3]] == 0).all()
    assert (share[..., :16] == 1)[labels[..., :16] != ROWS[3]].all()
    assert (share[:, :, 30:] == 0).all()
    # In between it rises with depth, and gradually.
    column = share[36, 20, 16:32].flip(0)
    assert (column.diff() >= 0).all()
    assert ((column > 0) & (column < 1)).sum() >= 2


@pytest.mark.parametrize(('front', 'expected'), [(-0.25, 0), (1.25, 1)])
def test_front_moves_from_birth_to_the_end_of_myelination(labels, front, expected):
    _, parameters = drawn(labels, replace(EVEN, front=(front, front)))
    share = deep_fraction(labels, parameters.myelination)
    assert (share[labels != ROWS[3]] == expected).all()


def test_front_is_uneven_if_asked(labels):
    ranges = replace(EVEN, unevenness=(0.3, 0.3), size_mm=(10, 10))
    shares = [
        deep_fraction(labels, drawn(labels, one)[1].myelination)[36, :, 20:32].sum(-1)
        for one in (EVEN, ranges)
    ]
    assert shares[0].std() < 0.05
    assert shares[1].std() > 0.5


def test_scan_has_two_intensities_and_one_label_of_white_matter(labels):
    config, parameters = drawn(labels)
    means = torch.full_like(parameters.intensities.means, OUTER)
    means[ROWS[3]] = CORTEX
    intensities = replace(parameters.intensities, means=means, deep_mean=DEEP)
    image, target = apply(
        labels, replace(parameters, intensities=intensities), config, torch.zeros(labels.shape)
    )
    assert len(target.unique()) == 3
    scale = DEEP - OUTER
    for region, value in (((40, 20, 2), DEEP), ((40, 20, 30), OUTER), ((40, 20, 40), CORTEX)):
        assert float(image[region]) == pytest.approx((value - OUTER) / scale, abs=0.02)


def test_grown_white_matter_has_one_intensity(labels):
    _, parameters = drawn(labels, unmyelinated=False)
    assert parameters.myelination is None
    assert parameters.intensities.deep_mean is None
