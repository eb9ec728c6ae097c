"""Lesions of the white matter: the model's against masks drawn by experts, or FreeSurfer's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synthseg_bids.files import write_table
from synthseg_bids.images.geometry import voxel_volume_mm3
from synthseg_bids.images.volume_io import Volume
from synthseg_bids.labels import LESION
from synthseg_bids.measure.overlap import dice_per_label, resample_nearest
from synthseg_bids.models.card import ModelCard

#: Part of the names of references that hold nothing but lesions.
LESION_REFERENCE = 'desc-lesions'
COLUMNS = ('scan', 'contrast', 'volume_ml', 'reference_ml', 'dice')


def has_lesions(card: ModelCard) -> bool:
    """Return whether a network has a label of lesions."""
    return LESION in card.labels


def lesion_reference(references: Sequence[Volume]) -> Volume | None:
    """Return the label map that says where the lesions of a scan are.

    Parameters
    ----------
    references : sequence of Volume
        All label maps of the head.

    Returns
    -------
    Volume or None
        A mask drawn by experts if there is one; else one in which FreeSurfer or SAMSEG has found
        lesions (white-matter hypointensities), as they do in healthy adults, too. None if there
        is neither: a reference without such voxels may have no such label.
    """
    drawn = (one for one in references if LESION_REFERENCE in one.path.name)
    labelled = (one for one in references if (one.data == LESION).any())
    return next(drawn, None) or next(labelled, None)


def lesion_row(scan: str, contrast: str, ours: Volume, theirs: Volume | None) -> dict[str, object]:
    """Measure the lesions of a segmentation, and their overlap with those of a reference.

    Parameters
    ----------
    scan, contrast : str
    ours : Volume
        Label map.
    theirs : Volume or None
        Label map in the same space, lesions 77; None if nothing says where they are.
    """
    row: dict[str, object] = {'scan': scan, 'contrast': contrast, 'volume_ml': _lesions_ml(ours)}
    if theirs is not None:
        found = resample_nearest(ours.data, ours.affine, theirs.grid)
        row['reference_ml'] = _lesions_ml(theirs)
        row['dice'] = dice_per_label(found, theirs.data, [LESION])[LESION]
    return row


def _lesions_ml(label_map: Volume) -> float:
    voxels = int((label_map.data == LESION).sum())
    return voxels * voxel_volume_mm3(label_map.affine) / 1000


def write_lesions(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write the table of all scans; without a row where the network has no such label."""
    write_table(path, COLUMNS, rows)
