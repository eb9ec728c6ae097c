"""Tables of one image (volumes, quality, overlap with references) and of one session."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids.labels import LESION, channels_of, segmentation_labels
from synthseg_bids.measure.agreement import Agreement
from synthseg_bids.measure.overlap import (
    MEAN_NAME,
    TOTAL_NAME,
    total_intracranial,
    volumes_from_labels,
)
from synthseg_bids.measure.parcel_overlap import MEAN_OF_PARCELS, names_of
from synthseg_bids.measure.qc_measures import MEASURES
from synthseg_bids.measure.qc_rules import FAIL, PASS, REVIEW, VERDICT
from synthseg_bids.parcels import NOT_IN_DKT, parcel_labels

from ..files import write_table

#: Of the tables over all images.
METHOD = {'Description': 'What segmented the image, as in the seg entity of its files.'}

MORPH_COLUMNS: dict[str, dict[str, str]] = {
    'index': {
        'Description': 'Value in the label map; from 1001 on, in that with parcels of the cortex.'
    },
    'name': {
        'Description': 'Name of the structure. Parcels, of which the cortex of a side consists, '
        'follow after all others; the last row is the total, in which they do not count twice.'
    },
    'volume_mm3': {
        'Description': 'Voxels with this label times the volume of a voxel.',
        'Units': 'mm^3',
    },
    'n_voxels': {'Description': 'Number of voxels with this label.'},
    'soft_volume_mm3': {
        'Description': 'Sum of the posterior probability on the grid where it was computed; n/a '
        'if the method gives none, as for parcels.',
        'Units': 'mm^3',
    },
}
ASEG_STATS = (
    'Volumes as in the morph table, and intensities of the image, in the format of the aseg.stats '
    'of FreeSurfer; eTIV is the sum of all structures.'
)
APARC_STATS = (
    'Volumes of the parcels of the cortex as in the morph table, and intensities of the image in '
    'them, in the format of the aseg.stats of FreeSurfer; eTIV is the sum of all structures.'
)
DICE_COLUMNS: dict[str, dict[str, str]] = {
    'reference': {'Description': 'Dataset of the reference, a key of DatasetLinks.'},
    'index': {'Description': 'Value in the label map.'},
    'name': {'Description': 'Name of the structure. Parcels of the cortex follow, where the '
             f'reference has them, too, and their mean, {MEAN_OF_PARCELS}; with one of DKT '
             f'without {names_of(NOT_IN_DKT)}, which it does not have. The last row averages the '
             'twelve structures of the SynthSeg paper.'},
    'dice': {'Description': 'Dice overlap on the grid of the reference, 0 to 1; n/a if neither '
             'holds the structure.'},
    'volume_mm3': {
        'Description': 'Volume in our segmentation, resampled to the grid of the reference.',
        'Units': 'mm^3',
    },
    'reference_volume_mm3': {'Description': 'Volume in the reference.', 'Units': 'mm^3'},
}  # fmt: skip

QC_COLUMNS: dict[str, dict[str, Any]] = {
    'measure': {
        'Description': 'What was measured.',
        'Levels': {
            **{m.name: f'{m.explanation}{f" In {m.units}." if m.units else ""}' for m in MEASURES},
            VERDICT: 'The worst of all flags; its reason joins those of the others.',
        },
    },
    'value': {'Description': 'Its value; n/a if it could not be measured.'},
    'error': {
        'Description': 'Root mean square error of an expected Dice, in generated scans of similar '
        'confidence and of heads that the expectation was not fitted to; n/a for other measures.',
    },
    'flag': {
        'Description': 'Whether the value lies within the limits; n/a if there are none.',
        'Levels': {
            PASS: 'It does.',
            REVIEW: 'It does not: look at the scan and its segmentation.',
            FAIL: 'It lies so far from them that the segmentation should not be used.',
        },
    },
    'reason': {'Description': 'What a value outside the limits means.'},
}
AGREEMENT_COLUMNS: dict[str, dict[str, Any]] = {
    'comparison': {
        'Description': 'What the two images have in common.',
        'Levels': {
            'contrasts': 'One session, other contrasts.',
            'repeats': 'One session, one contrast.',
            'visits': 'Two visits, one contrast and otherwise equal names.',
        },
    },
    'source_1': {'Description': 'BIDS URI of the first image.'},
    'source_2': {'Description': 'BIDS URI of the second image.'},
    'index': {'Description': 'Value in the label map.'},
    'name': {'Description': 'Name of the structure; the last two rows of a pair are the mean '
             'over the twelve structures of the SynthSeg paper and the total. Lesions count as '
             'the tissue that they lie in, and have a row of their own if both images show some.'},
    'dice': {'Description': 'Dice overlap, 0 to 1, after rigid alignment of the label maps by '
             'the centroids of their structures; n/a if neither holds the structure.'},
    'volume_1_mm3': {'Description': 'Volume in the first image.', 'Units': 'mm^3'},
    'volume_2_mm3': {'Description': 'Volume in the second image.', 'Units': 'mm^3'},
    'volume_difference': {
        'Description': 'Second volume minus first, divided by their mean.', 'Units': 'percent',
    },
    'rotation': {'Description': 'Angle by which the second image was turned; on the row of the '
                 'mean only, as the next two.', 'Units': 'degree'},
    'shift': {'Description': 'How far that and the translation moved the centre of the brain.',
              'Units': 'mm'},
    'residual': {'Description': 'Weighted root mean square distance of the centroids after the '
                 'alignment.', 'Units': 'mm'},
}  # fmt: skip


def morph_rows(
    volumes: Mapping[int, tuple[int, float]],
    total_mm3: float,
    soft_volumes_mm3: Sequence[float] | None = None,
    parcels: Mapping[int, tuple[int, float]] | None = None,
) -> list[dict[str, Any]]:
    """List the volumes of one image, a row per structure and a last one for their total.

    Parameters
    ----------
    volumes : mapping of int to (int, float)
        Number of voxels and volume in mm^3 by label; absent labels have none.
    total_mm3 : float
        Total intracranial volume in mm^3.
    soft_volumes_mm3 : sequence of float, optional
        Soft volume of every segmentation label in channel order, background included; NaN for
        labels that the network does not segment. They have no volumes then, nor has the total.
    parcels : mapping of int to (int, float), optional
        As `volumes`, of a label map with parcels of the cortex. Their rows precede the total.

    Returns
    -------
    list of dict
        By column of :data:`MORPH_COLUMNS`.
    """
    soft = list(soft_volumes_mm3 or [])
    labels = channels_of(len(soft)) if soft else segmentation_labels(LESION in volumes)
    rows: list[dict[str, Any]] = []
    for channel, label in enumerate(labels):
        if label.index == 0:
            continue
        row: dict[str, Any] = {'index': label.index, 'name': label.name}
        rows.append(row)
        if soft and math.isnan(soft[channel]):
            continue
        n_voxels, volume = volumes.get(label.index, (0, 0.0))
        row |= {'volume_mm3': float(volume), 'n_voxels': int(n_voxels)}
        if soft:
            row['soft_volume_mm3'] = float(soft[channel])
    total: dict[str, Any] = {'name': TOTAL_NAME}
    if all('volume_mm3' in row for row in rows):
        total['volume_mm3'] = float(total_mm3)
        total['n_voxels'] = sum(row['n_voxels'] for row in rows)
        if soft:
            total['soft_volume_mm3'] = float(sum(row['soft_volume_mm3'] for row in rows))
    return [*rows, *(_parcel_rows(parcels) if parcels else []), total]


def measure_rows(
    labels: np.ndarray,
    affine: np.ndarray,
    soft_volumes_mm3: Sequence[float] | None = None,
    parcels: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Measure a label map and, on the same grid, the one with parcels; see :func:`morph_rows`.

    Parameters
    ----------
    labels : (x, y, z) integer array
    affine : (4, 4) array
    soft_volumes_mm3 : sequence of float, optional
    parcels : (x, y, z) integer array, optional
    """
    volumes = volumes_from_labels(labels, affine)
    of_parcels = None if parcels is None else volumes_from_labels(parcels, affine)
    return morph_rows(volumes, total_intracranial(volumes), soft_volumes_mm3, of_parcels)


def _parcel_rows(volumes: Mapping[int, tuple[int, float]]) -> list[dict[str, Any]]:
    rows = []
    for label in parcel_labels():
        n_voxels, volume = volumes.get(label.index, (0, 0.0))
        found = {'volume_mm3': float(volume), 'n_voxels': int(n_voxels)}
        rows.append({'index': label.index, 'name': label.name, **found})
    return rows


def write_morph_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the volumes of one image; see :func:`morph_rows`."""
    write_table(path, MORPH_COLUMNS, rows)


def write_dice_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the overlaps of one image with its references; see :data:`DICE_COLUMNS`."""
    write_table(path, DICE_COLUMNS, rows)


def write_qc_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the quality of one image; see :data:`QC_COLUMNS`."""
    write_table(path, QC_COLUMNS, rows)


def agreement_rows(found: Agreement, **pair: str) -> list[dict[str, Any]]:
    """List the rows of two images in a table of agreement; see :data:`AGREEMENT_COLUMNS`.

    Parameters
    ----------
    found : Agreement
    pair : str
        ``comparison``, ``source_1`` and ``source_2``.
    """
    rows: list[dict[str, Any]] = [
        {
            'index': label.index,
            'name': label.name,
            'dice': found.dice[label.index],
            'volume_1_mm3': found.volumes_1_mm3[label.index],
            'volume_2_mm3': found.volumes_2_mm3[label.index],
        }
        for label in segmentation_labels(LESION in found.dice)
        if label.index != 0
    ]
    mean = {
        'name': MEAN_NAME,
        'dice': found.mean_dice,
        'rotation': found.rotation_degrees,
        'shift': found.shift_mm,
        'residual': found.residual_mm,
    }
    total: dict[str, Any] = {'name': TOTAL_NAME}
    for column in ('volume_1_mm3', 'volume_2_mm3'):
        total[column] = sum(row[column] for row in rows if row['index'] != LESION)
    for row in (*rows, total):
        first, second = row['volume_1_mm3'], row['volume_2_mm3']
        if first or second:
            row['volume_difference'] = 200 * (second - first) / (first + second)
    return [{**pair, **row} for row in (*rows, mean, total)]
