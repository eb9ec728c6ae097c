"""Tables of one image: volumes and overlap with references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthseg_bids.labels import segmentation_labels

from .atomic import write_table

MORPH_COLUMNS: dict[str, dict[str, str]] = {
    'index': {'Description': 'Value in the label map.'},
    'name': {'Description': 'Name of the structure.'},
    'volume_mm3': {
        'Description': 'Voxels with this label times the volume of a voxel.',
        'Units': 'mm^3',
    },
    'n_voxels': {'Description': 'Number of voxels with this label.'},
    'soft_volume_mm3': {
        'Description': 'Sum of the posterior probability on the grid of the network.',
        'Units': 'mm^3',
    },
}
DICE_COLUMNS: dict[str, dict[str, str]] = {
    'reference': {'Description': 'Dataset of the reference, a key of DatasetLinks.'},
    'index': {'Description': 'Value in the label map.'},
    'name': {'Description': 'Name of the structure; the last row averages the twelve structures '
             'of the SynthSeg paper.'},
    'dice': {'Description': 'Dice overlap on the grid of the reference, 0 to 1; n/a if neither '
             'holds the structure.'},
    'volume_mm3': {
        'Description': 'Volume in our segmentation, resampled to the grid of the reference.',
        'Units': 'mm^3',
    },
    'reference_volume_mm3': {'Description': 'Volume in the reference.', 'Units': 'mm^3'},
}  # fmt: skip

TOTAL_NAME = 'Total-Intracranial'


def write_morph_table(
    path: Path,
    volumes: Mapping[int, tuple[int, float]],
    total_mm3: float,
    soft_volumes_mm3: Sequence[float] | None = None,
) -> None:
    """Write the volumes of one image, a row per structure and a last one for their total.

    Parameters
    ----------
    path : Path
    volumes : mapping of int to (int, float)
        Number of voxels and volume in mm^3 by label; absent labels have none.
    total_mm3 : float
        Total intracranial volume in mm^3.
    soft_volumes_mm3 : sequence of float, optional
        Soft volume of every segmentation label in channel order, background included.
    """
    labels = segmentation_labels()
    soft = list(soft_volumes_mm3 or [])
    rows: list[dict[str, Any]] = []
    for channel, label in enumerate(labels):
        if label.index == 0:
            continue
        n_voxels, volume = volumes.get(label.index, (0, 0.0))
        rows.append(
            {
                'index': label.index,
                'name': label.name,
                'volume_mm3': float(volume),
                'n_voxels': int(n_voxels),
                'soft_volume_mm3': float(soft[channel]) if soft else None,
            }
        )
    total: dict[str, Any] = {'name': TOTAL_NAME, 'volume_mm3': float(total_mm3)}
    total['n_voxels'] = sum(row['n_voxels'] for row in rows)
    if soft:
        total['soft_volume_mm3'] = float(sum(row['soft_volume_mm3'] for row in rows))
    write_table(path, MORPH_COLUMNS, [*rows, total])


def write_dice_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the overlaps of one image with its references; see :data:`DICE_COLUMNS`."""
    write_table(path, DICE_COLUMNS, rows)
