"""From a scan to its segmentation: prepare, forward, clean, back to the scan's own grid.

The network works on a RAS grid at its training spacing, the *network grid*. Where its model card
says that it was trained on crops, a first pass over the whole scan finds the brain, a second one
over the crop around it corrects its place, and the last one sees it in the field of view of
training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..hardware.device import check_threads, resolve_device, set_threads
from ..hardware.memory import LOW_MEMORY_BYTES
from ..images.background import filled_box, without_far_background
from ..images.ct import CT_RANGE, is_hounsfield
from ..images.geometry import (
    from_ras,
    resampled_grid,
    voxel_volume_mm3,
)
from ..labels import CSF, mirror_channels, segmentation_labels
from ..measure.qc_measures import MAX_AXES_GAIN, MODEL_LIMITS
from ..models.card import ModelCard
from ..models.registry import DEFAULT_MODEL, load_model
from .axes import SURE, TurnedScan, segment_turned
from .confidence import mean_confidence, overall_confidence, unsure_mm3
from .engine import Engine
from .fallback import CPU, DeviceWithFallback
from .forward import Prediction, predict
from .memory_plan import Plan
from .postprocess import (
    Box,
    clean,
    crop_box,
    find_brain,
    resample_labels,
    smooth,
    soft_volumes,
)
from .preprocess import check_contrast, prepare
from .refine import own_steps, refine
from .result import IsotropicMaps, NetworkPosteriors, Segmentation

logger = logging.getLogger(__name__)

#: How often the brain is looked for: in the whole scan, then in the crop around what was found,
#: which the network knows better.
LOCALISATIONS = 2

#: Empty borders are cut off where what is left is less than this share of the scan, up to so many
#: voxels from what is not empty.
EMPTY_SHARE, EMPTY_MARGIN = 0.25, 8


class Segmenter:
    """A network, loaded once, that segments scans of any contrast and resolution.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model, or a ``.safetensors`` file.
    device : str or torch.device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    flip : bool
        Average with the segmentation of the mirrored scan: better, and the network runs twice.
    threads : int, optional
        CPU threads (default: as the process is set up).
    fallback : bool
        Go on on the CPU if a GPU fails or its memory is too small.
    autocrop : bool
        Look for the brain first, where the network was trained on crops; otherwise segment all
        of the scan.
    low_memory : bool
        Keep forward passes below a gigabyte, if need be at the cost of accuracy.
    memory_limit : int, optional
        Bytes that a forward pass may plan with, instead of all that are free.

    Raises
    ------
    ModelFileError, DeviceError
    """

    #: What it was made with; None for a network that was in memory.
    _settings: tuple[Any, ...] | None

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        device: str | torch.device = 'auto',
        flip: bool = True,
        threads: int | None = None,
        fallback: bool = True,
        autocrop: bool = True,
        low_memory: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        # Other processes may work in another folder, and other machines may have other ones.
        source = str(Path(model).absolute() if Path(model).is_file() else model)
        options = (flip, threads, fallback, autocrop, low_memory, memory_limit)
        self._settings = (source, str(device), *options)
        set_threads(threads)
        network, card = load_model(model)
        limit = memory_limit or (LOW_MEMORY_BYTES if low_memory else None)
        engine_on = partial(Engine, network, memory_limit=limit)
        spare = partial(engine_on, CPU) if fallback else None
        where = resolve_device(device)
        self._use(
            DeviceWithFallback(where, partial(engine_on, where), spare), card, flip, autocrop
        )

    @classmethod
    def from_engine(
        cls,
        engine: Engine,
        card: ModelCard,
        flip: bool = True,
        spare: Callable[[], Engine] | None = None,
    ) -> Segmenter:
        """Wrap a network that is in memory.

        Parameters
        ----------
        engine : Engine
        card : ModelCard
            What the network was trained on.
        flip : bool
        spare : callable, optional
            Makes an engine on the CPU, for scans that the device's memory does not suffice for.
        """
        segmenter = cls.__new__(cls)
        segmenter._settings = None
        segmenter._use(DeviceWithFallback(engine.device, lambda: engine, spare), card, flip)
        return segmenter

    def _use(
        self, place: DeviceWithFallback, card: ModelCard, flip: bool, autocrop: bool = True
    ) -> None:
        self._place = place
        self.card = card
        self._localisations = LOCALISATIONS if autocrop and card.crop_mm else 0
        self.mirror = mirror_channels(card.labels) if flip else None
        group_of = {
            label.index: label.topology_group for label in segmentation_labels(lesions=True)
        }
        self.groups = tuple(group_of[label] for label in card.labels)
        # What is not brain: background, and the fluid around it that goes on down the spine.
        self._outside = [i for i, label in enumerate(card.labels) if label in (0, CSF)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by the settings; the network is loaded again there."""
        if self._settings is None:
            raise TypeError('this Segmenter was made of a network in memory: pickle that instead')
        return _restored, (type(self), *self._settings)

    @property
    def engine(self) -> Engine:
        """The network."""
        return self._place.engine

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._place.device

    def segment(
        self,
        data: np.ndarray,
        affine: np.ndarray,
        posteriors: bool = False,
        labels_1mm: bool = False,
        posteriors_1mm: bool = False,
        ct: bool | None = None,
    ) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        data : (x, y, z) array
            Finite, not constant; any contrast, orientation and spacing.
        affine : (4, 4) array
            From voxel indices to mm (RAS+).
        posteriors : bool
            Whether to return the posteriors on the scan's grid (33 bytes per voxel).
        labels_1mm, posteriors_1mm : bool
            Whether to return labels, or labels and posteriors, on a 1 mm grid.
        ct : bool, optional
            Whether it is a CT scan, which is clipped to 0 to 80 Hounsfield units first (default:
            where its intensities are Hounsfield units, see
            :func:`~synthseg_bids.images.ct.is_hounsfield`).

        Returns
        -------
        Segmentation

        Raises
        ------
        InputImageError
            If nearly all voxels have one value.
        """
        found = self.find(data, affine, ct)
        return self.finish(found, posteriors, labels_1mm, posteriors_1mm)

    def find(
        self, data: np.ndarray, affine: np.ndarray, ct: bool | None = None
    ) -> NetworkPosteriors:
        """Compute the posteriors of a scan on the network grid; see :meth:`segment`."""
        check_threads()
        start = time.perf_counter()
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
        if ct is None:
            ct = is_hounsfield(data)
            if ct:
                logger.info('its intensities are Hounsfield units: segmented as CT, 0 to 80 HU')
        data, filled = without_far_background(data)
        if filled is not None:
            logger.info('its background is %g throughout; it takes no part in the scaling', filled)
        if ct:
            data = np.clip(data, *CT_RANGE)
        check_contrast(data[filled_box(data, EMPTY_MARGIN)], ct)
        prepared = prepare(data, affine, self.card.spacing_mm)
        infer = partial(self._infer, prepared.image)
        (region, prediction), device, note = self._place.run(infer, prepared.image.shape)
        posteriors, inner = clean(prediction.posteriors, self.groups)
        if inner is None:
            logger.warning('no brain found in the scan: everything is background')
            inner = (slice(0, 0),) * 3
        else:
            posteriors = self._sharpen(posteriors, prepared.image[region][inner], prepared.steps)
        box = tuple(
            slice(r.start + i.start, r.start + i.stop) for r, i in zip(region, inner, strict=True)
        )
        confidence = mean_confidence(posteriors)
        return NetworkPosteriors(
            prepared,
            posteriors,
            box,
            seen=tuple(prediction.posteriors.shape[1:]),
            flip_dice=prediction.flip_dice,
            device=device,
            start=start,
            fallback=note,
            ct=ct,
            confidence=confidence,
            unsure_mm3=unsure_mm3(posteriors, self._outside, self.card.spacing_mm),
            turned=self._turn(prepared.image[region], inner, confidence),
        )

    def _turn(self, image: np.ndarray, brain: Box, confidence: np.ndarray) -> TurnedScan | None:
        """Segment turned copies of what the network saw, if it was unsure of it."""
        # How sure others are when all is well is not known.
        shipped = self.card.sha256 == MODEL_LIMITS['origin']['model_sha256']
        if not shipped or overall_confidence(confidence) >= SURE:
            return None
        if not all(part.stop > part.start for part in brain):
            brain = tuple(slice(0, n) for n in image.shape)
        segment = partial(segment_turned, image=image, brain=brain, card=self.card)
        turned, *_ = self._place.run(lambda engine, plan: segment(engine, plan=plan), image.shape)
        if turned.gain > MAX_AXES_GAIN:
            logger.warning(
                'the axes in its header are wrong: R, A and S seem to be %s (but for left and '
                'right); correct them',
                ', '.join(turned.code),
            )
        return turned

    def _sharpen(self, posteriors: Tensor, image: np.ndarray, steps: np.ndarray) -> Tensor:
        """Smooth what differs from voxel to voxel, then follow the borders in the image."""
        card = self.card
        if card.network.sub_voxels > 1:
            posteriors = smooth(posteriors)
        if card.intensity_weight:
            mirror = mirror_channels(card.labels).tolist()
            steps = own_steps(steps, image, posteriors[0] < 0.5)
            weight = card.intensity_weight
            posteriors = refine(posteriors, image, card.spacing_mm, mirror, weight, steps)
        return posteriors

    def finish(
        self,
        found: NetworkPosteriors,
        posteriors: bool = False,
        labels_1mm: bool = False,
        posteriors_1mm: bool = False,
    ) -> Segmentation:
        """Bring what was found to the grid of the scan; see :meth:`segment`."""
        grid = found.prepared
        labels, kept = self._resample(found, grid.scan_shape, grid.steps, posteriors)
        isotropic = None
        if labels_1mm or posteriors_1mm:
            in_ras = grid.scan_affine
            shape, new_affine = resampled_grid(grid.scan_shape, in_ras, 1.0)
            steps = np.full(3, 1 / self.card.spacing_mm)
            maps = self._resample(found, shape, steps, posteriors_1mm)
            isotropic = IsotropicMaps(*maps, new_affine)
        if found.posteriors.numel() and not labels.any():
            logger.warning('the brain found is smaller than a voxel: everything is background')
        peak = None
        if self.device.type == 'cuda':
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
        return Segmentation(
            labels=np.ascontiguousarray(from_ras(labels, grid.orient)),
            volumes_mm3=soft_volumes(
                found.posteriors,
                grid.image.size,
                voxel_volume_mm3(grid.affine),
                self.card.unknown_channels,
            ),
            posteriors=None if kept is None else from_ras(kept, grid.orient),
            grid_shape=found.seen,
            device=str(found.device),
            seconds=time.perf_counter() - found.start,
            confidence=found.confidence,
            flip_dice=found.flip_dice,
            peak_gpu_mb=peak,
            isotropic=isotropic,
            fallback=found.fallback,
            ct=found.ct,
            unsure_mm3=found.unsure_mm3,
            turned=found.turned,
        )

    def _resample(
        self, found: NetworkPosteriors, shape: tuple[int, ...], steps: np.ndarray, posteriors: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return labels and posteriors on another grid in RAS."""
        from_shape = found.prepared.image.shape
        return resample_labels(
            found.posteriors, found.box, from_shape, shape, steps, self.card.labels, posteriors
        )

    def _infer(
        self, image: np.ndarray, engine: Engine, plan: Plan | None
    ) -> tuple[Box, Prediction]:
        """Return the part of the network grid that was segmented, and its posteriors."""
        region: Box = filled_box(image, EMPTY_MARGIN)
        # What is empty costs nothing; small margins are left as they are.
        if image[region].size > EMPTY_SHARE * image.size:
            region = tuple(slice(0, n) for n in image.shape)
        for _ in range(self._localisations):
            closer = self._closer(image, region, engine, plan)
            if closer == region:
                break
            region = closer
        return region, predict(engine, image[region], self.mirror, plan)

    def _closer(self, image: np.ndarray, region: Box, engine: Engine, plan: Plan | None) -> Box:
        """Return the crop around the brain that the network sees in a region of the image."""
        assert self.card.crop_mm is not None
        multiple = self.card.network.size_multiple
        grid = (image.shape, self.card.crop_mm, self.card.spacing_mm, multiple)
        # A crop around nothing is the smallest; if that is the whole region, spare the pass.
        smallest = crop_box(tuple(slice(n // 2, n // 2) for n in image.shape), *grid)
        if all(s == slice(0, n) for s, n in zip(smallest, image.shape, strict=True)):
            return region
        outside = predict(engine, image[region], plan=plan, channels=self._outside).posteriors
        brain = find_brain(outside.sum(0, dtype=torch.float32))
        if brain is None:
            return region
        placed = tuple(
            slice(r.start + b.start, r.start + b.stop) for r, b in zip(region, brain, strict=True)
        )
        return crop_box(placed, *grid)


@lru_cache(maxsize=2)
def _restored(kind: type[Segmenter], *settings: Any) -> Segmenter:
    """Make a Segmenter that was pickled; those of one process share the network."""
    return kind(*settings)


@lru_cache(maxsize=2)
def cached_segmenter(
    model: str = DEFAULT_MODEL,
    device: str | torch.device = 'auto',
    flip: bool = True,
    threads: int | None = None,
    fallback: bool = True,
    autocrop: bool = True,
    low_memory: bool = False,
    memory_limit: int | None = None,
) -> Segmenter:
    """Return the process's :class:`Segmenter` for these options, loading it on first use."""
    settings = (model, device, flip, threads, fallback, autocrop, low_memory, memory_limit)
    return Segmenter(*settings)
