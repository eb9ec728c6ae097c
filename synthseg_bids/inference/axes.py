"""Detect wrong orientations in headers by the confidence of the network in reoriented copies.

Conversions that lose the orientation leave headers with exchanged or reversed axes. The network
has only seen upright heads in training, and its confidence is then low everywhere. Left-right
flips cannot be detected: heads are too symmetric.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from ..measure.qc_limits import MAX_AXES_GAIN, limits_hold
from ..models.card import ModelCard
from .confidence import mean_confidence, overall_confidence
from .engine import Engine
from .forward import predict
from .localise import crop_box
from .memory_plan import Plan
from .postprocess import Box

logger = logging.getLogger(__name__)

Infer = Callable[[Engine, Plan | None], 'TurnedScan']
Run = Callable[[Infer, tuple[int, ...]], tuple['TurnedScan', torch.device, str]]

#: Confidence of the shipped network from which on the orientation is not tested. Real scans have
#: 0.82 to 0.90, those of adults with exchanged or reversed axes 0.48 to 0.70.
SURE_CONFIDENCE = 0.8
#: Largest side, in voxels, of the downsampled copy for finding the plane of symmetry.
SYMMETRY_VOXELS = 48


@dataclass(frozen=True)
class Turn:
    """A possible error of the axes in a header, up to left and right.

    Attributes
    ----------
    axes : tuple of int
        Axes of the scan, in RAS by its header, that really run from left to right, from posterior
        to anterior, and from inferior to superior.
    reverse : tuple of bool
        Whether each of them runs in the opposite direction.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    reverse: tuple[bool, bool, bool] = (False, False, False)

    @property
    def code(self) -> str:
        """True directions of the axes that are RAS by the header.

        Examples
        --------
        >>> Turn((0, 2, 1), (False, True, False)).code
        'RSP'
        """
        ends = [('LPI' if back else 'RAS')[i] for i, back in enumerate(self.reverse)]
        return ''.join(ends[self.axes.index(axis)] for axis in range(3))

    def image(self, image: np.ndarray) -> np.ndarray:
        """Return a view of an (x, y, z) array, in RAS if the turn is right."""
        return np.flip(
            image.transpose(self.axes), tuple(axis for axis in range(3) if self.reverse[axis])
        )

    def box(self, box: Box, shape: tuple[int, ...]) -> Box:
        """Return the same part of the turned array."""
        return tuple(
            slice(shape[axis] - box[axis].stop, shape[axis] - box[axis].start)
            if back
            else box[axis]
            for axis, back in zip(self.axes, self.reverse, strict=True)
        )


@dataclass(frozen=True)
class TurnedScan:
    """The reoriented copy with the highest confidence.

    Attributes
    ----------
    code : str
        See :attr:`Turn.code`; ``RAS`` if the header's orientation is best.
    gain : float
        Confidence minus that of the scan as it is.
    """

    code: str
    gain: float


def symmetric_axis(image: np.ndarray) -> int:
    """Return the axis along which a volume is most like its mirror image.

    Parameters
    ----------
    image : (x, y, z) array
        With the head in the centre.
    """
    steps = tuple(slice(None, None, -(-n // SYMMETRY_VOXELS)) for n in image.shape)
    coarse = image[steps].astype(np.float64)
    coarse -= coarse.mean()
    return int(np.argmax([(coarse * np.flip(coarse, axis)).sum() for axis in range(3)]))


def list_turns(sideways: int) -> Iterator[Turn]:
    """List the turns of a scan whose axis `sideways` is the left-right one."""
    first, second = (axis for axis in range(3) if axis != sideways)
    for anterior, superior in ((first, second), (second, first)):
        for back, down in product((False, True), repeat=2):
            yield Turn((sideways, anterior, superior), (False, back, down))


def segment_turned(
    engine: Engine, image: np.ndarray, brain: Box, card: ModelCard, plan: Plan | None = None
) -> TurnedScan:
    """Segment reoriented copies of a scan, without mirrored passes.

    Parameters
    ----------
    engine : Engine
    image : (x, y, z) float32 array
        The network's input.
    brain : tuple of slice
        Estimated bounding box of the brain.
    card : ModelCard
    plan : Plan, optional
        See :func:`.forward.predict`.

    Returns
    -------
    TurnedScan
    """

    def confidence(turn: Turn) -> float:
        turned = turn.image(image)
        part = tuple(slice(0, n) for n in turned.shape)
        if card.crop_mm:
            inside = turn.box(brain, image.shape)
            multiple = card.network.size_multiple
            part = crop_box(inside, turned.shape, card.crop_mm, card.spacing_mm, multiple)
        found = predict(engine, np.ascontiguousarray(turned[part]), plan=plan)
        best, winner = found.posteriors.float().max(0)
        return overall_confidence(mean_confidence(best, winner, len(found.posteriors)))

    straight = Turn()
    turns = {straight, *list_turns(symmetric_axis(image[brain]))}
    found = {turn: confidence(turn) for turn in turns}
    best = max(turns, key=found.__getitem__)
    return TurnedScan(best.code, found[best] - found[straight])


def detect_turn(
    run: Run, image: np.ndarray, brain: Box, card: ModelCard, confidence: np.ndarray
) -> tuple[str, float] | None:
    """Segment rotated copies of the network's input, if its confidence was low.

    Parameters
    ----------
    run : callable
        See :meth:`.fallback.DeviceWithFallback.run`.
    image : (x, y, z) float32 array
    brain : tuple of slice
        Bounding box of the brain; empty if none was found.
    card : ModelCard
    confidence : (n_channels,) array
        From :func:`.confidence.mean_confidence`.

    Returns
    -------
    (str, float) or None
        See :class:`~synthseg_bids.measure.network_report.NetworkReport`.
    """
    # The threshold was measured for the shipped model alone.
    if not limits_hold(card.sha256) or overall_confidence(confidence) >= SURE_CONFIDENCE:
        return None
    if not all(part.stop > part.start for part in brain):
        brain = tuple(slice(0, n) for n in image.shape)
    segment = partial(segment_turned, image=image, brain=brain, card=card)
    turned, *_ = run(lambda engine, plan: segment(engine, plan=plan), image.shape)
    if turned.gain > MAX_AXES_GAIN:
        logger.warning(
            'the axes in its header are wrong: R, A and S seem to be %s (but for left and '
            'right); correct them',
            ', '.join(turned.code),
        )
    return turned.code, turned.gain
