"""Results of a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import Grid, from_ras, voxel_volume_mm3
from ..images.header import header_of
from ..images.volume_io import Volume, label_image, posteriors_image
from ..labels import channels_of, segmentation_labels
from ..measure.network_report import NetworkReport
from ..measure.overlap import TOTAL_NAME, total_intracranial, volumes_from_labels
from ..measure.tissues import channels_of_parts
from ..models.card import ModelCard
from ..parcels import parcel_labels
from .empty_borders import EmptyBorders
from .parcels import ParcelPosteriors, label_parcels
from .postprocess import Box, soft_volumes
from .preprocess import Prepared
from .resample_posteriors import resample_labels, resample_sums
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
    parcels : (x, y, z) int16 array, or None
        See :attr:`Segmentation.parcels`.
    """

    labels: np.ndarray
    posteriors: np.ndarray | None
    affine: np.ndarray
    parcels: np.ndarray | None = None


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
    parcels : (x, y, z) int16 array, or None
        The labels with parcels for cortex, numbered as in FreeSurfer's aparc+aseg, if asked for.
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
    parcels: np.ndarray | None = None
    prior: SoftSegmentation | None = None


@dataclass(frozen=True)
class NetworkPosteriors:
    """Posteriors of a scan on the network grid, cleaned.

    Attributes
    ----------
    prepared : Prepared
    labels : (n_channels,) tuple of int
        Label of each channel.
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
    parcels : ParcelPosteriors or None
        Logits of the parcels, if asked for.
    boxes : list of boxes
        Where each channel has posteriors; see :func:`.postprocess.supports`.
    borders : EmptyBorders
        What was cut off the scan before.
    weights : (n_channels,) tensor
        Weights of the labels; see :func:`.label_weights.label_weights`.
    """

    prepared: Prepared
    labels: tuple[int, ...]
    posteriors: Tensor
    box: Box
    seen: tuple[int, ...]
    device: torch.device
    start: float
    report: NetworkReport
    fallback: str
    borders: EmptyBorders
    boxes: list[Box]
    weights: Tensor
    parcels: ParcelPosteriors | None = None
    prior: SoftSegmentation | None = None

    def volumes_mm3(self, unknown: Sequence[int]) -> np.ndarray:
        """Return the soft volume of each channel; see :func:`.postprocess.soft_volumes`."""
        grid, scan = self.prepared.grid, self.prepared.scan_grid
        volumes = soft_volumes(
            self.posteriors, self.prepared.image.size, voxel_volume_mm3(grid.affine), unknown
        )
        volumes[0] += self.borders.n_voxels * voxel_volume_mm3(scan.affine)
        return volumes

    def on_scan(self, volumes: np.ndarray, outside: int = 0) -> np.ndarray:
        """Return maps in the orientation and size of the scan.

        Parameters
        ----------
        volumes : (..., x, y, z) array
            On the grid of what was segmented, in RAS.
        outside : int
            See :meth:`.empty_borders.EmptyBorders.added_to`.
        """
        return self.borders.added_to(from_ras(volumes, self.prepared.orient), outside)

    def on_grid(
        self, grid: Grid, steps: np.ndarray, posteriors: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return labels, and posteriors if asked for, on another grid in RAS.

        Parameters and results are those of :func:`.resample_posteriors.resample_labels`.
        """
        shapes = self.prepared.image.shape, grid.shape
        arguments = self.posteriors, self.box, *shapes, steps, self.labels
        return resample_labels(*arguments, posteriors, self.boxes, self.weights)

    def tissue_parts(self) -> np.ndarray:
        """Return the probabilities of tissues on the grid of the scan.

        Returns
        -------
        (5, x, y, z) uint8 array
            See :attr:`Segmentation.tissues`.
        """
        scan, groups = self.prepared, channels_of_parts(self.labels)
        shapes = scan.image.shape, scan.scan_grid.shape
        sums = resample_sums(self.posteriors, self.box, *shapes, scan.steps, groups)
        return self.on_scan(sums)

    def parcels_on(self, labels: np.ndarray, grid: Grid, steps: np.ndarray) -> np.ndarray | None:
        """Return labels on a grid in RAS with parcels for cortex; None if not asked for.

        Parameters
        ----------
        labels : (x, y, z) int16 array
        grid : Grid
            Theirs, with the centre of the network grid.
        steps : (3,) array
            Its spacing divided by that of the network grid.
        """
        if self.parcels is None:
            return None
        shape, volume = self.prepared.image.shape, voxel_volume_mm3(grid.affine)
        return label_parcels(self.parcels, labels, self.box, shape, steps, volume)


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
    def parcels(self) -> nib.Nifti1Image | None:
        """The same with parcels in the place of the cortex; None if they were not asked for."""
        if self.segmentation.parcels is None:
            return None
        image = label_image(self.segmentation.parcels, self.scan)
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
        """Volume of every structure and parcel, and of all structures, in mm^3, by name."""
        import pandas as pd

        volumes = volumes_from_labels(self.segmentation.labels, self.scan.affine)
        by_name = {
            label.name: volumes.get(label.index, (0, 0.0))[1]
            for label in channels_of(len(self.segmentation.volumes_mm3))
            if label.index
        }
        if self.segmentation.parcels is not None:
            of_parcels = volumes_from_labels(self.segmentation.parcels, self.scan.affine)
            for label in parcel_labels():
                by_name[label.name] = of_parcels.get(label.index, (0, 0.0))[1]
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
            header_of(self.scan.header, self.scan.n_not_finite),
            found.report,
            parcels=found.parcels,
        )
        return pd.DataFrame(rows).set_index('measure')
