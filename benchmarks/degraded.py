"""Scans that show less, or hold no brain as it should be, for measurements of quality control."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from synthseg_bids.synth.resolution import Noise, add_noise

Arrays = tuple[np.ndarray, np.ndarray]
Degradation = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Arrays]


def noisy(image: np.ndarray, labels: np.ndarray, affine: np.ndarray, seed: int) -> Arrays:
    """Add Rician noise of a third to two thirds of the mean intensity of the brain."""
    share = np.random.default_rng(seed).uniform(1 / 3, 2 / 3)
    signal = float(image[labels > 0].mean())
    source = torch.Generator().manual_seed(seed)
    noise = Noise(signal * share, rician=True)
    return add_noise(torch.tensor(image), noise, source).numpy(), labels


def blurred(image: np.ndarray, labels: np.ndarray, affine: np.ndarray, seed: int) -> Arrays:
    """Blur with a Gaussian of 5 to 10 mm full width at half maximum."""
    sigma_mm = np.random.default_rng(seed).uniform(5, 10) / 2.355
    return ndimage.gaussian_filter(
        image, sigma_mm / np.linalg.norm(affine[:3, :3], axis=0)
    ), labels


def ghosted(image: np.ndarray, labels: np.ndarray, affine: np.ndarray, seed: int) -> Arrays:
    """Add a copy of 40 to 80 % of the intensity, shifted by a fifth to a half of an axis."""
    rng = np.random.default_rng(seed)
    axis = int(rng.integers(3))
    shift = int(image.shape[axis] * rng.uniform(0.2, 0.5))
    return image + rng.uniform(0.4, 0.8) * np.roll(image, shift, axis), labels


def upside_down(image: np.ndarray, labels: np.ndarray, affine: np.ndarray, seed: int) -> Arrays:
    """Reverse the third axis."""
    turned, truth = (np.ascontiguousarray(part[:, :, ::-1]) for part in (image, labels))
    return turned, truth


#: What is done to image and labels of a scan, given its affine and a seed.
DEGRADED: dict[str, Degradation] = {
    'noisy': noisy,
    'blurred': blurred,
    'ghosted': ghosted,
    'upside down': upside_down,
}
