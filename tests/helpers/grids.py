"""Grids for tests: every orientation, tilted or not."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from nibabel.orientations import axcodes2ornt

ORIENTATIONS = [
    ''.join(code) for axes in permutations(('LR', 'PA', 'IS')) for code in product(*axes)
]


def oriented_affine(
    codes: str, spacing: tuple[float, float, float], tilt_degrees: float = 0
) -> np.ndarray:
    """Return an affine whose array axes point to `codes`, then tilted around an odd axis."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(axcodes2ornt(codes)):
        affine[int(world), axis] = sign * spacing[axis]
    affine[:3, 3] = (-31.5, 12.25, 7)
    angle = np.deg2rad(tilt_degrees)
    k = np.array([1, 2, 3]) / np.sqrt(14)
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine[:3] = rotation @ affine[:3]
    return affine


def centre_of_mass_mm(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    indices = np.indices(volume.shape).reshape(3, -1)
    centre = indices @ volume.ravel() / volume.sum()
    return affine[:3, :3] @ centre + affine[:3, 3]
