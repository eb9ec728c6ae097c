"""Lesions of the white matter: the model's against masks drawn by experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synthseg_bids.files import write_table
from synthseg_bids.images.geometry import voxel_volume_mm3
from synthseg_bids.images.volume_io import Volume, read_label_map
from synthseg_bids.labels import LESION
from synthseg_bids.measure.overlap import dice_per_label, resample_nearest
from synthseg_bids.models.card import ModelCard

#: Part of the names of references that hold nothing but lesions.
LESION_REFERENCE = 'desc-lesions'
COLUMNS = ('scan', 'contrast', 'volume_ml', 'reference_ml', 'dice')


def has_lesions(card: ModelCard) -> bool:
    """Return whether a network has a label of lesions."""
    return LESION in card.labels


def lesion_row(scan: str, contrast: str, ours: Volume, mask: Path | None) -> dict[str, object]:
    """Measure the lesions of a segmentation, and their overlap with a mask if there is one.

    Parameters
    ----------
    scan, contrast : str
    ours : Volume
        Label map.
    mask : Path or None
        Label map in the same space, lesions 77; None of a scan that has none.
    """
    volume = float((ours.data == LESION).sum()) * voxel_volume_mm3(ours.affine) / 1000
    row: dict[str, object] = {'scan': scan, 'contrast': contrast, 'volume_ml': volume}
    if mask is not None:
        theirs = read_label_map(mask)
        found = resample_nearest(ours.data, ours.affine, theirs.grid)
        reference = float((theirs.data == LESION).sum()) * voxel_volume_mm3(theirs.affine) / 1000
        row['reference_ml'] = reference
        row['dice'] = dice_per_label(found, theirs.data, [LESION])[LESION]
    return row


def write_lesions(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write the table of all scans; without a row where the network has no such label."""
    write_table(path, COLUMNS, rows)
