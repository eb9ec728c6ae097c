"""Results of a segmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import from_ras
from ..images.volume_io import Volume, header_of, label_image, posteriors_image
from ..labels import channels_of, segmentation_labels
from ..measure.network_report import NetworkReport
from ..measure.overlap import TOTAL_NAME, total_intracranial, volumes_from_labels
from ..measure.tissues import channels_of_parts
from ..models.card import ModelCard
from .postprocess import Box, resample_sums
from .preprocess import Prepared
from .soft_segmentation import SoftSegmentation

if TYPE_CHECKING:
    import nibabel as nib
    import pandas as pd


@dataclass(frozen=True)
class IsotropicMaps:
    """A segmentation on a grid of 1 mm over the scan's field of view, in RAS.

    Attributes
    ----------
    labels : (x, y, z) int16 array
    posteriors : (n_channels, x, y, z) uint8 array, or None
        Probabilities times 255.
    affine : (4, 4) float64 array
    """

    labels: np.ndarray
    posteriors: np.ndarray | None
    affine: np.ndarray


@dataclass(frozen=True)
class Segmentation:
    """One segmented scan.

    Attributes
    ----------
    labels : (x, y, z) int16 array
        FreeSurfer numbers on the scan's grid.
    volumes_mm3 : (n_channels,) float64 array
        Soft volumes in channel order, background included.
    posteriors : (n_channels, x, y, z) uint8 array, or None
        Probabilities times 255 on the scan's grid.
    grid_shape : (3,) tuple of int
        Size of the segmented part of the network grid.
    device : str
        Device that the network ran on.
    seconds : float
        Wall-clock time without loading the model.
    report : NetworkReport
        Confidence of the network.
    peak_gpu_mb : float or None
        Peak of the memory allocated on the GPU; None on the CPU.
    isotropic : IsotropicMaps or None
        The segmentation on a 1 mm grid, if asked for.
    fallback : str
        Reason why a GPU was not used as usual (failed, or too small); empty if it was.
    tissues : (5, x, y, z) uint8 array, or None
        Probabilities of the parts of tissues times 255, on the scan's grid; see
        :data:`synthseg_bids.measure.tissues.PARTS`.
    prior : SoftSegmentation or None
        What the network alone predicts; lesions are a label of it even where they are folded.
    """

    labels: np.ndarray
    volumes_mm3: np.ndarray
    posteriors: np.ndarray | None
    grid_shape: tuple[int, ...]
    device: str
    seconds: float
    report: NetworkReport
    peak_gpu_mb: float | None = None
    isotropic: IsotropicMaps | None = None
    fallback: str = ''
    tissues: np.ndarray | None = None
    prior: SoftSegmentation | None = None


@dataclass(frozen=True)
class NetworkPosteriors:
    """Posteriors of a scan on the network grid, cleaned.

    Attributes
    ----------
    prepared : Prepared
    posteriors : (n_channels, x, y, z) float32 tensor
        Inside the brain's bounding box.
    box : tuple of slice
        That box in the network grid.
    seen : (3,) tuple of int
        Size of the network's input.
    start : float
        Start time, by :func:`time.perf_counter`.
    device : torch.device
    report, fallback, prior
        See :class:`Segmentation`.
    """

    prepared: Prepared
    posteriors: Tensor
    box: Box
    seen: tuple[int, ...]
    device: torch.device
    start: float
    report: NetworkReport
    fallback: str
    prior: SoftSegmentation | None = None

    def tissue_parts(self, labels: tuple[int, ...]) -> np.ndarray:
        """Return the probabilities of tissues on the grid of the scan.

        Parameters
        ----------
        labels : (n_channels,) tuple of int
            Label of each channel.

        Returns
        -------
        (5, x, y, z) uint8 array
            See :attr:`Segmentation.tissues`.
        """
        scan, groups = self.prepared, channels_of_parts(labels)
        shapes = scan.image.shape, scan.scan_grid.shape
        sums = resample_sums(self.posteriors, self.box, *shapes, scan.steps, groups)
        return from_ras(sums, scan.orient)


@dataclass(frozen=True, repr=False)
class Result:
    """The segmentation of a scan, as images and tables.

    It keeps the network's posteriors, about 500 MB for a head at 1 mm, from which those on the
    grid of the scan are computed. With many scans, keep only the attributes that you need.

    Attributes
    ----------
    scan : Volume
        The scan as read.
    segmentation : Segmentation
        The underlying arrays.
    card : ModelCard
        Card of the network.
    """

    scan: Volume
    segmentation: Segmentation
    card: ModelCard
    _resample: Callable[..., Segmentation]

    def __repr__(self) -> str:
        size = ' x '.join(map(str, self.scan.shape))
        found = self.segmentation
        took = f'{found.seconds:.1f} s on {found.device}'
        return f'<Result {self.scan.path.name}: {size} voxels segmented in {took}>'

    @cached_property
    def labels(self) -> nib.Nifti1Image:
        """Label map on the grid of the scan, with FreeSurfer's numbers."""
        image = label_image(self.segmentation.labels, self.scan)
        return type(image)(image.dataobj, self.scan.affine, image.header)

    @cached_property
    def posteriors(self) -> nib.Nifti1Image:
        """Probability of every label on the grid of the scan, 4D; computed on first access.

        float32 in steps of about 1/255, with a sum of 1 in every voxel. Volumes are in the order
        of the model card's labels.
        """
        maps = self._resample(posteriors=True).posteriors
        assert maps is not None
        # The scale factor applies to files only: in memory these are bytes.
        as_bytes = posteriors_image(maps, self.scan.affine, self.scan)
        values = np.asanyarray(as_bytes.dataobj).astype(np.float32)
        # Rounded to bytes, the channels of a voxel sum to 253 to 257.
        values /= values.sum(-1, keepdims=True)
        return type(as_bytes)(values, self.scan.affine)

    @cached_property
    def volumes(self) -> pd.Series:
        """Volume of every structure of the label map, and of all of them, in mm^3, by name."""
        import pandas as pd

        volumes = volumes_from_labels(self.segmentation.labels, self.scan.affine)
        by_name = {
            label.name: volumes.get(label.index, (0, 0.0))[1]
            for label in channels_of(len(self.segmentation.volumes_mm3))
            if label.index
        }
        by_name[TOTAL_NAME] = total_intracranial(volumes)
        for channel in self.card.unknown_channels:
            by_name[segmentation_labels()[channel].name] = by_name[TOTAL_NAME] = np.nan
        return pd.Series(by_name, name='volume_mm3')

    @cached_property
    def qc(self) -> pd.DataFrame:
        """Quality control: a row per measure, the verdict last; see ``docs/qc.rst``."""
        import pandas as pd

        from ..measure.qc import assess

        found = self.segmentation
        rows = assess(
            self.scan.data,
            found.labels,
            self.scan.affine,
            header_of(self.scan),
            found.report,
        )
        return pd.DataFrame(rows).set_index('measure')
