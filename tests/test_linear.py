from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from synthseg_bids.linear import (
    acquisition_matrices,
    apply_along_axes,
    blur_matrix,
    interpolation_matrix,
)


def test_interpolation_agrees_with_numpy(rng):
    line = rng.normal(size=9)
    positions = rng.uniform(-2, 10, size=30)
    matrix = interpolation_matrix(torch.from_numpy(positions), 9).numpy()
    np.testing.assert_allclose(
        matrix @ line, np.interp(positions, np.arange(9), line), rtol=0, atol=1e-5
    )


def test_blur_agrees_with_scipy_away_from_the_edges(rng):
    line = rng.normal(size=60)
    ours = blur_matrix(60, 1.7).numpy() @ line
    np.testing.assert_allclose(
        ours[10:-10], gaussian_filter1d(line, 1.7)[10:-10], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize('sigma', [0, 0.3, 4])
@pytest.mark.parametrize('step', [1, 2.5, 8])
def test_a_constant_line_stays_constant(sigma, step):
    down, up = acquisition_matrices(40, sigma, step)
    matrix = up @ down
    torch.testing.assert_close(matrix.sum(1), torch.ones(40))


def test_acquisition_does_not_shift():
    ramp = torch.arange(64.0)
    down, up = acquisition_matrices(64, 2, 4)
    assert len(down) == 16
    acquired = up @ (down @ ramp)
    torch.testing.assert_close(acquired[12:48], ramp[12:48], rtol=0, atol=1e-3)


def test_axes_are_independent(rng):
    volume = torch.from_numpy(rng.normal(size=(2, 4, 5, 6))).float()
    matrices = tuple(torch.from_numpy(rng.normal(size=(3, n))).float() for n in (4, 5, 6))
    torch.testing.assert_close(
        apply_along_axes(volume, matrices),
        torch.einsum('bxyz,ix,jy,kz->bijk', volume, *matrices),
        rtol=1e-4,
        atol=1e-4,
    )
