"""Segment scans: resample, forward pass, clean, refine, resample to the scan's own grid.

>>> from synthseg_bids import Segmenter  # doctest: +SKIP
>>> segment = Segmenter()  # doctest: +SKIP
>>> result = segment(nibabel.load('scan.nii.gz'))  # doctest: +SKIP
>>> result.labels.to_filename('dseg.nii.gz')  # doctest: +SKIP
>>> result.volumes['Left-Hippocampus']  # doctest: +SKIP

The network works on a RAS grid at its training spacing, the *network grid*, cropped to the brain
(:mod:`.localise`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputImageError, about
from ..hardware.device import check_threads, resolve_device, set_threads
from ..hardware.memory import LOW_MEMORY_BYTES
from ..images.geometry import nested_box
from ..images.volume_io import Volume
from ..labels import LESION, mirror_channels
from ..measure.network_report import NetworkReport
from ..models import DEFAULT_MODEL
from ..models.card import ModelCard, ModelFileError
from ..models.registry import load_model
from .axes import detect_turn
from .clean_prediction import clean_prediction
from .confidence import mean_confidence, unsure_sides
from .engine import Engine
from .fallback import CPU, DeviceWithFallback
from .fold_lesions import fold_lesions
from .label_weights import label_weights
from .network_pass import NetworkPass, pass_through
from .options import ComputeOptions, SegmentOptions
from .parcels import Parcellator
from .postprocess import most_likely, supports
from .reading import Source, read, read_ahead
from .result import IsotropicMaps, NetworkPosteriors, Result, Segmentation
from .soft_segmentation import SoftSegmentation

logger = logging.getLogger(__name__)


class Segmenter:
    """A network, loaded once, that segments scans of any contrast and resolution.

    Not thread-safe. The number of CPU threads is a setting of the process, shared by all objects.

    Parameters
    ----------
    model : str or Path
    flip, autocrop : bool
    lesions : {'label', 'fold'}
    parcels : bool
        Settings that change the result: see :class:`.options.SegmentOptions`.
    device : str or torch.device
    threads : int, optional
    gpu_fallback, low_memory : bool
    memory_limit : int, optional
        Settings of the computation: see :class:`.options.ComputeOptions`.

    Attributes
    ----------
    card : ModelCard
        The model's card: labels, spacing, training.
    options : SegmentOptions
    compute : ComputeOptions
    parcellator : Parcellator or None
        Names the parcels of the cortex; None if they are not asked for.

    Raises
    ------
    ModelFileError
        If there is no such model, or its files cannot be used.
    DeviceError
        If there is no such device.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        device: str | torch.device = 'auto',
        flip: bool = True,
        threads: int | None = None,
        gpu_fallback: bool = True,
        autocrop: bool = True,
        low_memory: bool = False,
        memory_limit: int | None = None,
        lesions: str = 'label',
        parcels: bool = False,
    ) -> None:
        self._in_memory = False
        self.options = SegmentOptions(str(model), flip, autocrop, lesions, parcels)
        self.compute = ComputeOptions(str(device), threads, gpu_fallback, low_memory, memory_limit)
        set_threads(threads)
        network, self.card = load_model(self.options.model)
        if self.card.network.in_channels != 1:
            raise ModelFileError(f'{model}: does not segment scans; choose another model')
        limit = memory_limit or (LOW_MEMORY_BYTES if low_memory else None)
        engine_on = partial(Engine, network, memory_limit=limit)
        spare = partial(engine_on, CPU) if gpu_fallback else None
        where = resolve_device(device)
        self._place = DeviceWithFallback(where, partial(engine_on, where), spare)
        self.parcellator = Parcellator() if parcels else None

    @classmethod
    def from_engine(
        cls,
        engine: Engine,
        card: ModelCard,
        flip: bool = True,
        spare: Callable[[], Engine] | None = None,
    ) -> Segmenter:
        """Make a Segmenter of a network that is in memory.

        Parameters
        ----------
        engine : Engine
        card : ModelCard
        flip : bool
        spare : callable, optional
            Makes an engine on the CPU, for scans that do not fit the device's memory.
        """
        segmenter = cls.__new__(cls)
        segmenter._in_memory = True
        segmenter.parcellator = None
        segmenter.card = card
        segmenter.options = SegmentOptions(card.name, flip)
        segmenter.compute = ComputeOptions(str(engine.device))
        segmenter._place = DeviceWithFallback(engine.device, lambda: engine, spare)
        return segmenter

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings only; the network is loaded again when unpickled."""
        if self._in_memory:
            raise TypeError('this Segmenter was made of a network in memory: pickle that instead')
        return cached_segmenter, (self.options, self.compute)

    @property
    def engine(self) -> Engine:
        """The network."""
        return self._place.engine

    @property
    def device(self) -> torch.device:
        """Device that the network runs on."""
        return self._place.device

    @property
    def mirror(self) -> np.ndarray | None:
        """Channel permutation of the mirrored pass; None if there is none."""
        return mirror_channels(self.card.labels) if self.options.flip else None

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the segmentation: those of the network, without lesions if they are folded."""
        folded = self.options.lesions == 'fold'
        return tuple(label for label in self.card.labels if not (folded and label == LESION))

    def __call__(self, image: Source, ct: bool | None = None) -> Result:
        """Segment a scan.

        Parameters
        ----------
        image : path-like, or nibabel.spatialimages.SpatialImage
        ct : bool, optional
            Whether it is a CT scan, in Hounsfield units (default: detected by its intensities).

        Returns
        -------
        Result

        Raises
        ------
        InputImageError
            If it cannot be read, is not one 3D volume of real numbers, or is constant.
        TypeError
            If it is neither a path nor an image.
        """
        return self._segment(read(image), ct)

    def batch(
        self, images: Iterable[Source], ct: bool | None = None, prefetch: int = 2
    ) -> Iterator[tuple[Source, Result | ValueError]]:
        """Segment scans one after the other, reading ahead while the network runs.

        Parameters
        ----------
        images : iterable of path-like or SpatialImage
            Read lazily; may be endless.
        ct : bool, optional
        prefetch : int
            Number of scans to read ahead.

        Yields
        ------
        image
            The element of `images`.
        result : Result or InputImageError
            The error, if the scan cannot be used; the others are segmented all the same.
        """
        for image, scan in read_ahead(images, prefetch):
            yield image, self._try(scan, ct)

    def _try(self, reading: Future[Volume], ct: bool | None) -> Result | ValueError:
        """Segment a scan that is being read; return the error if it cannot be used."""
        try:
            scan = reading.result()
        except ValueError as error:
            return error
        except TypeError as error:
            return InputImageError(str(error))
        try:
            return self._segment(scan, ct)
        except InputImageError as error:
            return error

    def _segment(self, scan: Volume, ct: bool | None) -> Result:
        with about(scan.path):
            found = self.predict(scan.data, scan.affine, ct)
        return Result(scan, self.resample(found), self.card, partial(self.resample, found))

    def segment(
        self,
        data: np.ndarray,
        affine: np.ndarray,
        posteriors: bool = False,
        labels_1mm: bool = False,
        posteriors_1mm: bool = False,
        ct: bool | None = None,
        tissues: bool = False,
        prior: bool = False,
    ) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        data : (x, y, z) array
            Finite, not constant; any contrast, orientation and spacing.
        affine : (4, 4) array
            Maps voxel indices to mm (RAS+).
        posteriors : bool
            Whether to return the posteriors on the scan's grid (33 bytes per voxel).
        labels_1mm, posteriors_1mm : bool
            Whether to return labels, or labels and posteriors, on a 1 mm grid.
        ct : bool, optional
            Whether it is a CT scan, to be clipped to 0 to 80 Hounsfield units (default: detected
            by :func:`~synthseg_bids.images.ct.is_hounsfield`).
        tissues : bool
            Whether to return the probabilities of tissues (5 bytes per voxel).
        prior : bool
            Whether to return what the network alone predicts, before its posteriors are refined
            by the scan's intensities, for a combination with other scans.

        Returns
        -------
        Segmentation

        Raises
        ------
        InputImageError
            If nearly all voxels have one value.
        """
        found = self.predict(data, affine, ct, prior)
        return self.resample(found, posteriors, labels_1mm, posteriors_1mm, tissues)

    def predict(
        self,
        data: np.ndarray,
        affine: np.ndarray,
        ct: bool | None = None,
        keep_prior: bool = False,
    ) -> NetworkPosteriors:
        """Compute the posteriors of a scan on the network grid; see :meth:`segment`."""
        start = time.perf_counter()
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
        seen = self._pass_through(data, affine, ct)
        cleaned = clean_prediction(seen, self.card)
        prior = cleaned.prior(seen, self.card) if keep_prior else None
        posteriors, boxes = cleaned.refined(self.card), cleaned.boxes
        if len(self.labels) < len(self.card.labels):
            posteriors = fold_lesions(posteriors, self.card.labels)
            boxes = supports(posteriors)
        best, winner = most_likely(posteriors, boxes)
        confidence = mean_confidence(best, winner, len(posteriors))
        dice = seen.prediction.flip_dice
        report = NetworkReport(
            self.card.sha256,
            seen.ct,
            tuple(confidence.tolist()),
            () if dice is None else tuple(dice.tolist()),
            unsure_sides(posteriors, best, winner, self.labels, self.card.spacing_mm),
            detect_turn(
                self._place.run,
                seen.prepared.image[seen.region],
                nested_box(cleaned.inner, seen.prediction.box),
                self.card,
                confidence,
            ),
        )
        parcels = None
        if self.parcellator is not None:
            parcels = self.parcellator(posteriors, self.labels, self.card.spacing_mm)
        return NetworkPosteriors(
            seen.prepared,
            self.labels,
            posteriors,
            nested_box(cleaned.inner, seen.box),
            tuple(part.stop - part.start for part in seen.region),
            seen.device,
            start,
            report,
            seen.note,
            seen.borders,
            boxes,
            label_weights(posteriors, self.labels, (best, winner), boxes),
            parcels,
            prior,
        )

    def prior(
        self, data: np.ndarray, affine: np.ndarray, ct: bool | None = None
    ) -> SoftSegmentation:
        """Compute what the network alone predicts for a scan, for a combination with others.

        Parameters and errors are those of :meth:`segment`, whose result has the same with
        ``prior=True``.
        """
        seen = self._pass_through(data, affine, ct)
        return clean_prediction(seen, self.card).prior(seen, self.card)

    def _pass_through(self, data: np.ndarray, affine: np.ndarray, ct: bool | None) -> NetworkPass:
        check_threads()
        settings = self.card, self.mirror, self.options.autocrop
        return pass_through(self._place, *settings, data, affine, ct)

    def resample(
        self,
        found: NetworkPosteriors,
        posteriors: bool = False,
        labels_1mm: bool = False,
        posteriors_1mm: bool = False,
        tissues: bool = False,
    ) -> Segmentation:
        """Resample posteriors to the grid of the scan; see :meth:`segment`."""
        prepared = found.prepared
        labels, kept = found.on_grid(prepared.scan_grid, prepared.steps, posteriors)
        isotropic = None
        if labels_1mm or posteriors_1mm:
            grid = prepared.scan_grid.resampled(1.0)
            steps = np.full(3, 1 / self.card.spacing_mm)
            maps = found.on_grid(grid, steps, posteriors_1mm)
            isotropic = IsotropicMaps(*maps, grid.affine, found.parcels_on(maps[0], grid, steps))
        if found.posteriors.numel() and not labels.any():
            logger.warning('the brain found is smaller than a voxel: everything is background')
        parcels = found.parcels_on(labels, prepared.scan_grid, prepared.steps)
        on_gpu = self.device.type == 'cuda'
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if on_gpu else None
        return Segmentation(
            labels=np.ascontiguousarray(found.on_scan(labels)),
            volumes_mm3=found.volumes_mm3(self.card.unknown_channels),
            posteriors=None if kept is None else found.on_scan(kept, outside=255),
            grid_shape=found.seen,
            device=str(found.device),
            seconds=time.perf_counter() - found.start,
            report=found.report,
            peak_gpu_mb=peak,
            isotropic=isotropic,
            fallback=found.fallback,
            tissues=found.tissue_parts() if tissues else None,
            parcels=None if parcels is None else found.on_scan(parcels),
            prior=found.prior,
        )


@lru_cache(maxsize=2)
def cached_segmenter(options: SegmentOptions, compute: ComputeOptions) -> Segmenter:
    """Return the process's :class:`Segmenter` for these settings, loading it on first use."""
    return Segmenter(**vars(options), **vars(compute))
