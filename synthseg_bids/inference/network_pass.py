"""Prepare a scan and pass it through the network, on the device or on the CPU instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..images.geometry import nested_box
from ..models.card import ModelCard
from .empty_borders import EmptyBorders, cut_empty_borders
from .engine import Engine
from .fallback import DeviceWithFallback
from .forward import Prediction
from .localise import predict_brain
from .memory_plan import Plan
from .postprocess import Box
from .preprocess import Prepared, prepare_scan


@dataclass(frozen=True, eq=False)
class NetworkPass:
    """What the network has predicted for a scan, and how.

    Attributes
    ----------
    prepared : Prepared
        The scan on the network grid.
    ct : bool
        Whether its intensities are Hounsfield units.
    borders : EmptyBorders
        Borders that were cut off before.
    region : tuple of slice
        Segmented region of the network grid.
    prediction : Prediction
        What the network has predicted in that region.
    device : torch.device
        Device that was used.
    note : str
        Why that is not the device that was asked for; empty if it is.
    """

    prepared: Prepared
    ct: bool
    borders: EmptyBorders
    region: Box
    prediction: Prediction
    device: torch.device
    note: str

    @property
    def box(self) -> Box:
        """Box of the predicted posteriors in the network grid."""
        return nested_box(self.prediction.box, self.region)


def pass_through(
    place: DeviceWithFallback,
    card: ModelCard,
    mirror: np.ndarray | None,
    autocrop: bool,
    data: np.ndarray,
    affine: np.ndarray,
    ct: bool | None,
) -> NetworkPass:
    """Prepare a scan and pass it through the network.

    Parameters
    ----------
    place : DeviceWithFallback
        The network on its device, or on the CPU instead.
    card : ModelCard
    mirror : (n_channels,) integer array or None
        See :func:`.forward.predict`.
    autocrop : bool
        See :func:`.localise.region_to_segment`.
    data, affine, ct
        See :meth:`.segmenter.Segmenter.segment`.

    Returns
    -------
    NetworkPass
    """
    data, affine, borders = cut_empty_borders(data, affine)
    prepared, ct = prepare_scan(data, affine, card.spacing_mm, ct)

    def infer(engine: Engine, plan: Plan | None) -> tuple[Box, Prediction]:
        return predict_brain(engine, plan, prepared.image, card, mirror, autocrop)

    (region, prediction), device, note = place.run(infer, prepared.image.shape)
    return NetworkPass(prepared, ct, borders, region, prediction, device, note)
