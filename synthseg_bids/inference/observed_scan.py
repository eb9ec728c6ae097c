"""A scan on the grid of posteriors, and what its resolution hides of the image behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..hardware.threads import map_in_threads
from ..images.resampling import resample
from ..linear import blur_matrix
from .original_spacing import independence
from .postprocess import slabs
from .preprocess import rescale_intensities
from .slices import BLUR, Slices
from .voxel_lists import at


@dataclass(frozen=True, eq=False)
class ObservedScan:
    """A scan, and what depends on its resolution.

    Attributes
    ----------
    image : (x, y, z) float32 tensor
        Rescaled; 0 outside of its field of view.
    view : (x, y, z) bool tensor or None
        Its field of view; None if that is the whole grid.
    weight : float
        Exponent of the likelihood.
    blur : three matrices
        The point-spread function of the scanner.
    slices : Slices or None
        Its acquired voxels, rescaled as the image is; None if they are not known, or fine.
    """

    image: Tensor
    view: Tensor | None
    weight: float
    blur: tuple[Tensor, Tensor, Tensor]
    slices: Slices | None = None

    def shows(self, voxels: Tensor) -> Tensor | None:
        """Return which voxels of a list are in the field of view; None for all."""
        return None if self.view is None else at(self.view, voxels)

    def deblurred(self, expected: Tensor) -> Tensor:
        """Return the expected image plus the residual, of which there is none out of view."""
        if self.slices is not None:
            return self.slices.residual(expected).add_(expected)
        sharp = torch.empty_like(expected)

        def compute(rows: slice) -> None:
            blurred = resample(expected, (self.blur[0][rows], *self.blur[1:]))
            residual = torch.sub(self.image[rows], blurred, out=sharp[rows])
            if self.view is not None:
                residual *= self.view[rows]
            residual += expected[rows]

        map_in_threads(compute, slabs(len(expected)))
        return sharp


def observe(
    image: np.ndarray,
    steps: np.ndarray,
    weight: float,
    slices: Slices | None = None,
    shown_anew: float = 1.0,
) -> ObservedScan:
    """Prepare a scan for refinement.

    Parameters
    ----------
    image : (x, y, z) array
        NaN outside of its field of view.
    steps : (3,) array
        Spacing of the original voxels divided by that of the grid.
    weight : float
        Exponent of the likelihood of a scan as fine as the grid.
    slices : Slices, optional
        The acquired voxels, with the intensities of `image`.
    shown_anew : float
        See :func:`.refine.refine`.

    Returns
    -------
    ObservedScan
    """
    sigmas = BLUR * np.maximum(steps, 1)
    x, y, z = (blur_matrix(n, float(s)) for n, s in zip(image.shape, sigmas, strict=True))
    weight *= min(1.0, shown_anew * independence(steps))
    seen = ~np.isnan(image)
    shown = np.ascontiguousarray(image if seen.all() else image[seen], dtype=np.float32)
    if slices is not None:
        acquired = slices.image.numpy()
        slices = slices.with_image(torch.from_numpy(rescale_intensities(acquired, shown)))
    if seen.all():
        scan = torch.from_numpy(rescale_intensities(shown))
        return ObservedScan(scan, None, weight, (x, y, z), slices)
    whole = np.zeros(image.shape, dtype=np.float32)
    whole[seen] = rescale_intensities(shown)
    view = torch.from_numpy(seen)
    return ObservedScan(torch.from_numpy(whole), view, weight, (x, y, z), slices)
