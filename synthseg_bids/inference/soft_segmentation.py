"""Posteriors of a scan inside the brain's bounding box, in memory and in files.

They are what scans of one participant are registered and combined by. Stored as bytes and
compressed, those of an adult's head take about 6 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..images.geometry import Grid, bounding_box, orientation, to_ras


@dataclass(frozen=True, eq=False)
class SoftSegmentation:
    """Posteriors of a scan inside the brain's bounding box.

    Attributes
    ----------
    posteriors : (n_channels, x, y, z) uint8 tensor
        Probabilities times 255.
    labels : (n_channels,) tuple of int
        Label of each channel, background first.
    grid : Grid
        In RAS, over the field of view of the scan; outside of the box everything is background.
    box : tuple of slice
        That box in the grid.
    steps_mm : (3,) array
        Spacing of the scan's original voxels along the axes of the grid.
    """

    posteriors: Tensor
    labels: tuple[int, ...]
    grid: Grid
    box: tuple[slice, ...]
    steps_mm: np.ndarray = field(default_factory=lambda: np.ones(3))

    @classmethod
    def from_probabilities(
        cls,
        posteriors: Tensor,
        labels: Sequence[int],
        grid: Grid,
        box: tuple[slice, ...],
        steps_mm: np.ndarray,
    ) -> SoftSegmentation:
        """Round probabilities from 0 to 1 to bytes; see the attributes."""
        stored = torch.stack([
            channel.mul(255).round_().clamp_(0, 255).to(torch.uint8) for channel in posteriors
        ])  # fmt: skip
        return cls(stored, tuple(labels), grid, box, np.asarray(steps_mm, dtype=float))

    @classmethod
    def from_labels(cls, data: np.ndarray, affine: np.ndarray) -> SoftSegmentation:
        """Make posteriors of 0 and 1 of a label map.

        Parameters
        ----------
        data : (i, j, k) integer array
        affine : (4, 4) array

        Returns
        -------
        SoftSegmentation
        """
        found = to_ras(np.asarray(data), orientation(affine))
        box = bounding_box(found != 0) or (slice(0, 0),) * 3
        part = torch.from_numpy(np.ascontiguousarray(found[box], dtype=np.int64))
        values = (0, *(int(value) for value in part.unique() if value))
        posteriors = torch.stack([(part == value).to(torch.uint8) * 255 for value in values])
        return cls(posteriors, values, Grid(data.shape, affine).in_ras(), box)

    @property
    def affine(self) -> np.ndarray:
        """Affine of the box."""
        affine = np.array(self.grid.affine, dtype=float)
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in self.box]
        return affine

    def probabilities(self) -> Tensor:
        """Return the posteriors as float32, from 0 to 1; they sum to 1."""
        found = self.posteriors.float()
        return found.div_(found.sum(0).clamp_(min=1))

    def block_means(
        self, groups: Sequence[Sequence[int]], block: int
    ) -> tuple[Tensor, np.ndarray]:
        """Average the probabilities of groups of labels over cubes of voxels.

        Parameters
        ----------
        groups : sequence of sequence of int
            Labels of each group; those that the segmentation lacks count nothing.
        block : int
            Edge of a cube in voxels.

        Returns
        -------
        means : (n_groups, x', y', z') float32 tensor
            From 0 to 1. At the far sides the box is filled up with zeros to whole cubes.
        affine : (4, 4) array
            Affine of the cubes.
        """
        shape = [-(-n // block) for n in self.posteriors.shape[1:]]
        found = np.zeros((len(groups), *shape), dtype=np.float32)
        for total, group in zip(found, groups, strict=True):
            for label in group:
                if label in self.labels:
                    total += _block_sums(self.posteriors[self.labels.index(label)].numpy(), block)
        affine = self.affine @ np.diag([block, block, block, 1.0])
        affine[:3, 3] += self.affine[:3, :3] @ np.full(3, (block - 1) / 2)
        return torch.from_numpy(found).div_(255 * block**3), affine

    def save(self, path: Path) -> None:
        """Write a compressed NumPy archive."""
        np.savez_compressed(
            path,
            posteriors=self.posteriors.numpy(),
            labels=np.array(self.labels),
            shape=np.array(self.grid.shape),
            affine=self.grid.affine,
            box=np.array([(part.start, part.stop) for part in self.box]),
            steps_mm=self.steps_mm,
        )

    @classmethod
    def load(cls, path: Path) -> SoftSegmentation:
        """Read what :meth:`save` has written."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                torch.from_numpy(stored['posteriors']),
                tuple(stored['labels'].tolist()),
                Grid(tuple(stored['shape'].tolist()), stored['affine']),
                tuple(slice(*ends) for ends in stored['box'].tolist()),
                stored['steps_mm'],
            )


def _block_sums(volume: np.ndarray, block: int) -> np.ndarray:
    """Sum cubes of at most 6 voxels a side, axis by axis, in the smallest integers."""
    total = volume
    for axis, n in enumerate(volume.shape):
        shape = [*total.shape]
        shape[axis] = -(-n // block)
        sums = np.zeros(shape, dtype=np.uint16)
        for first in range(min(block, n)):
            part = total[(slice(None),) * axis + (slice(first, None, block),)]
            sums[(slice(None),) * axis + (slice(part.shape[axis]),)] += part
        total = sums
    return total
