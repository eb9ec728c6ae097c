"""Masks are eroded and dilated as by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from synthseg_bids.images.morphology import dilate, erode


@pytest.mark.parametrize('shape', [(9, 8, 7), (1, 5, 4), (2, 2, 2)])
def test_as_scipy(rng, shape):
    mask = rng.random(shape) < 0.8
    mask[:, 0] = True
    for beyond in (False, True):
        expected = ndimage.binary_erosion(mask, border_value=beyond)
        assert np.array_equal(erode(mask, beyond), expected)
    assert np.array_equal(dilate(~mask), ndimage.binary_dilation(~mask))
