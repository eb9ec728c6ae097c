"""Name the parcel of each cortex voxel from the segmentation, by a second small network.

The parcel network sees no scan, only the classes of one hemisphere (:mod:`.hemispheres`), so that
it works on every contrast that the first network works on. Its logits, on a grid of 2 mm, are
interpolated linearly at the cortex voxels of any label map of the same field of view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..models import PARCEL_MODEL
from ..models.card import ModelFileError
from ..models.registry import load_model
from ..parcels import PARCEL_NUMBERS, SIDES, parcel_label
from .hemispheres import N_INPUTS, HemisphereGrid, hemisphere_input
from .postprocess import Box
from .speckles import remove_speckles

#: Voxels whose logits are interpolated at once.
CHUNK = 2**16


@dataclass(frozen=True)
class HemisphereLogits:
    """The parcel network's output for a hemisphere.

    Attributes
    ----------
    logits : (x, y, z, 34) float32 tensor
        On the hemisphere's grid, not mirrored.
    grid : HemisphereGrid
    """

    logits: Tensor
    grid: HemisphereGrid


@dataclass(frozen=True)
class ParcelPosteriors:
    """Where each parcel is likely, for both hemispheres.

    Attributes
    ----------
    sides : mapping of str to HemisphereLogits
        ``left`` and ``right``; a hemisphere of which nothing was found is left out.
    """

    sides: Mapping[str, HemisphereLogits]


class Parcellator:
    """The parcel network, loaded once.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model, or a ``.safetensors`` file.
    device : torch.device or str
        What the network runs on.

    Raises
    ------
    ModelFileError
        If there is no such model, or if it does not name parcels.
    """

    def __init__(
        self, model: str | Path = PARCEL_MODEL, device: torch.device | str = 'cpu'
    ) -> None:
        self.network, self.card = load_model(model)
        self.device = torch.device(device)
        if self.card.labels != PARCEL_NUMBERS or self.card.network.in_channels != N_INPUTS:
            raise ModelFileError(f'{model}: not a network of cortical parcels; choose another')
        self.network.place(self.device)

    @torch.inference_mode()
    def __call__(
        self, posteriors: Tensor, labels: Sequence[int], spacing_mm: float
    ) -> ParcelPosteriors:
        """Find the parcels of a segmentation.

        Parameters
        ----------
        posteriors : (n_channels, x, y, z) tensor
            Cleaned, in RAS orientation.
        labels : (n_channels,) sequence of int
            Segmentation label of each channel.
        spacing_mm : float
            Voxel size.

        Returns
        -------
        ParcelPosteriors
        """
        sides = {}
        multiple = self.card.network.size_multiple
        for side in SIDES:
            found = hemisphere_input(posteriors, labels, side, spacing_mm, multiple)
            if found is None:
                continue
            maps, grid = found
            logits = self.network(maps.to(self.device))[0].movedim(0, -1).float().cpu()
            if side == 'right':
                logits = logits.flip(0)
            sides[side] = HemisphereLogits(logits.contiguous(), grid)
        return ParcelPosteriors(sides)


@torch.inference_mode()
def label_parcels(
    found: ParcelPosteriors,
    labels: np.ndarray,
    box: Box,
    shape: Sequence[int],
    steps: np.ndarray,
    voxel_mm3: float,
) -> np.ndarray:
    """Replace the cortex in a label map by parcels.

    Parameters
    ----------
    found : ParcelPosteriors
    labels : (x, y, z) int16 array
        Segmentation labels on any grid with the same centre and axes as the network grid.
    box : tuple of slice
        Box of the posteriors in the network grid.
    shape : (3,) sequence of int
        Shape of the network grid.
    steps : (3,) array
        Spacing of the labels' grid divided by that of the network grid.
    voxel_mm3 : float
        Volume of a voxel of the labels.

    Returns
    -------
    (x, y, z) int16 array
        An aparc+aseg map: each cortex voxel has a parcel of its side, all others keep their label.
        Cortex of a side on which no hemisphere was found keeps its label, too.
    """
    parcels = labels.copy()
    positions = [
        torch.from_numpy((n - 1) / 2 + (np.arange(n_out) - (n_out - 1) / 2) * step - part.start)
        for n, n_out, step, part in zip(shape, labels.shape, steps, box, strict=True)
    ]
    for side, (cortex, _) in SIDES.items():
        flat = np.flatnonzero(labels == cortex)
        if side not in found.sides or not len(flat):
            continue
        where = np.unravel_index(flat, labels.shape)
        hemisphere = found.sides[side]
        places = [
            hemisphere.grid.located(position, axis) for axis, position in enumerate(positions)
        ]
        numbers = np.array([parcel_label(side, number) for number in PARCEL_NUMBERS])
        parcels[where] = numbers[_most_likely(hemisphere.logits, places, where)]
    return remove_speckles(parcels, voxel_mm3)


def _most_likely(
    logits: Tensor, places: Sequence[Tensor], where: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Interpolate logits at voxels and return the channel with the largest one.

    Parameters
    ----------
    logits : (x, y, z, n_channels) tensor
    places : three (n,) tensors
        Position of each plane of voxels, along each axis of the label map.
    where : three (n_voxels,) integer arrays
        Indices of voxels.

    Returns
    -------
    (n_voxels,) integer array
    """
    found = []
    for start in range(0, len(where[0]), CHUNK):
        index = [torch.from_numpy(axis[start : start + CHUNK]) for axis in where]
        chosen = [place[i] for place, i in zip(places, index, strict=True)]
        found.append(interpolate(logits, chosen).argmax(1))
    return torch.cat(found).numpy()


def interpolate(logits: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Interpolate logits linearly at points; the gradient with respect to them is known.

    Parameters
    ----------
    logits : (x, y, z, n_channels) float32 tensor
        Contiguous; no side is 1.
    places : three (n,) tensors
        Positions in voxels. Beyond the grid its edge is repeated.

    Returns
    -------
    (n, n_channels) tensor
    """
    strides = (logits.shape[1] * logits.shape[2], logits.shape[2], 1)
    first = torch.zeros(len(places[0]), dtype=torch.int64)
    shares = []
    for place, n, stride in zip(places, logits.shape, strides, strict=False):
        inside = place.clamp(0, n - 1)
        low = inside.floor().clamp(max=n - 2)
        first += low.long() * stride
        weight = (inside - low).float()
        shares.append((1 - weight, weight))
    corners = list(product((0, 1), repeat=3))
    weights = torch.stack([shares[0][i] * shares[1][j] * shares[2][k] for i, j, k in corners], 1)
    offsets = [i * strides[0] + j * strides[1] + k for i, j, k in corners]
    return functional.embedding_bag(
        first[:, None] + torch.tensor(offsets),
        logits.flatten(0, 2),
        mode='sum',
        per_sample_weights=weights,
    )
