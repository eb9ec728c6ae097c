"""A head of ellipsoids, as scans in different positions show it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.soft_segmentation import SoftSegmentation

#: Centre, radii in mm and label of ellipsoids, later ones inside of earlier ones.
STRUCTURES = (
    ((18, 2, 8), (17, 34, 26), 42), ((-18, 2, 8), (17, 34, 26), 3),
    ((17, 2, 8), (13, 29, 21), 41), ((-17, 2, 8), (13, 29, 21), 2),
    ((12, 5, 10), (5, 16, 6), 43), ((-11, 4, 11), (5, 15, 7), 4),
    ((9, -4, 4), (5, 6, 5), 49), ((-9, -4, 4), (5, 6, 5), 10),
    ((12, -22, -22), (13, 11, 9), 47), ((-12, -22, -22), (13, 11, 9), 8),
    ((0, -10, -18), (6, 7, 14), 16),
)  # fmt: skip


def head(scale: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a label map of 2 mm and its affine."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -48
    where = 2 * np.stack(np.indices((48, 48, 48)), -1) - 48.0
    labels = np.zeros((48, 48, 48), np.int16)
    for centre, radii, label in STRUCTURES:
        distance = ((where - np.array(centre)) / np.array(radii) / scale) ** 2
        labels[distance.sum(-1) < 1] = label
    return labels, affine


def motion(rotation: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    """Return a rigid motion of a rotation vector in degrees and a translation in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(rotation)).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def seen(matrix: np.ndarray) -> SoftSegmentation:
    """Return the head after a motion, interpolated."""
    labels, affine = head()
    to_voxels = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ affine
    values = (0, *sorted({label for *_, label in STRUCTURES}))
    planes = [
        affine_transform(255.0 * (labels == v), to_voxels[:3, :3], to_voxels[:3, 3], order=1)
        for v in values
    ]
    posteriors = torch.from_numpy(np.stack(planes).round().astype(np.uint8))
    box = tuple(slice(0, n) for n in labels.shape)
    return SoftSegmentation(posteriors, values, Grid(labels.shape, affine), box)
