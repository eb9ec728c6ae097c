"""Displacements that change the volume of structures are more likely than strain alone tells."""

from __future__ import annotations

import torch

from synthseg_bids.inference.deformation_prior import deformation_prior

SIZE, STRAIN = 6, 0.1


def spheres() -> torch.Tensor:
    """Return the posteriors of two structures side by side, on the nodes."""
    x, y, z = (torch.arange(SIZE) - (SIZE - 1) / 2 for _ in range(3))
    flat = y[:, None] ** 2 + z**2
    near = torch.exp(-((x[:, None, None] - 1) ** 2 + flat) / 4)
    far = torch.exp(-((x[:, None, None] + 2) ** 2 + flat) / 4)
    parts = torch.stack([near, far]) * 0.5
    return torch.cat([1 - parts.sum(0, keepdim=True), parts])


def precision(volume_change: float) -> torch.Tensor:
    """Return the whole precision matrix, column by column."""
    one = torch.eye(SIZE)
    prior = deformation_prior(spheres(), (one, one, one), 1, STRAIN, volume_change)
    nodes = torch.eye(3 * SIZE**3).view(-1, 3, SIZE, SIZE, SIZE)
    return torch.stack([prior.gradient(node).flatten() for node in nodes]).double()


def volumes() -> torch.Tensor:
    """Return the relative change of volume of both structures for each coordinate."""
    parts = spheres()[1:]
    slopes = torch.stack([torch.stack(torch.gradient(part)) / part.sum() for part in parts])
    slopes -= slopes.mean((2, 3, 4), keepdim=True)
    return -slopes.flatten(1).double()


def test_covariance_is_that_of_strain_and_of_changes_of_volume():
    plain, relaxed, changes = precision(1e-6), precision(0.05), volumes()
    torch.testing.assert_close(relaxed, relaxed.T, atol=1e-3, rtol=0)
    # Displacements of the whole head are left to the registration: both are singular there.
    whole = torch.ones(3 * SIZE**3, dtype=torch.float64)
    torch.testing.assert_close(relaxed @ whole, 0 * whole, atol=1e-3, rtol=0)
    strained = torch.linalg.pinv(plain, hermitian=True, rtol=1e-6)
    fields = strained @ changes.T
    variances = (changes @ fields).diagonal()
    fields = fields / variances
    expected = strained + 0.05**2 * fields @ fields.T
    found = torch.linalg.pinv(relaxed, hermitian=True, rtol=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-2 * float(expected.max()), rtol=0)
    # The volume of a structure that changes alone has the variances of both.
    alone = (changes[:1] @ strained @ changes[:1].T) + 0.05**2
    assert float(changes[0] @ found @ changes[0]) >= 0.99 * float(alone)
