"""Statistics over the images of a dataset: which stand out, and how well repeated ones agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from synthseg_bids.measure.stats import (
    MIN_VALUES,
    intraclass_correlations,
    robust_spread,
    robust_z,
    within_target_cv,
)

from .tables import METHOD

#: Images further out than this many standard deviations are outliers (Iglewicz and Hoaglin 1993).
MAX_Z = 3.5

OUTLIER_COLUMNS: dict[str, dict[str, Any]] = {
    'statistic': {'Description': 'Column of the table in which the image stands out.'},
    'table': {
        'Description': 'That table.',
        'Levels': {'morph': 'group_morph.tsv', 'qc': 'group_qc.tsv'},
    },
    'value': {'Description': 'Value of the image, in the unit of that column.'},
    'typical': {'Description': 'Median of all images of its contrast.'},
    'robust_z': {
        'Description': 'Distance to the median in standard deviations, estimated from the median '
        f'absolute deviation; outliers are those beyond {MAX_Z}. Volumes are compared by their '
        f'logarithm. At least {MIN_VALUES} images of the contrast are needed.'
    },
    'n_images': {'Description': 'Images of its contrast with a value.'},
}
RELIABILITY_COLUMNS: dict[str, dict[str, Any]] = {
    'method': METHOD,
    'comparison': {
        'Description': 'What is repeated.',
        'Levels': {
            'contrasts': 'The same session, seen with two contrasts.',
            'visits': 'The same participant and contrast, in the first two sessions in the order '
            'of their labels.',
        },
    },
    'contrast_1': {'Description': 'Suffix of the first image; of several in a session the first '
                   'by name.'},
    'contrast_2': {'Description': 'Suffix of the second image.'},
    'name': {'Description': 'Name of the structure.'},
    'n_pairs': {'Description': 'Pairs of images.'},
    'icc_2_1': {'Description': 'Intraclass correlation of the volumes, ICC(2,1): two-way random '
                f'effects, absolute agreement, single measurement; n/a below {MIN_VALUES} pairs.'},
    'icc_3_1': {'Description': 'ICC(3,1): two-way mixed effects, consistency, single measurement; '
                'a constant difference between first and second does not lower it.'},
    'cv': {'Description': 'Coefficient of variation of the volume within a pair, root mean square '
           'over pairs.', 'Units': 'percent'},
    'mean_difference': {'Description': 'Second volume minus first, divided by their mean, '
                        'averaged over pairs.', 'Units': 'percent'},
}  # fmt: skip


def find_outliers(
    rows: Sequence[Mapping[str, str]],
    names: Sequence[str],
    table: str,
    logarithmic: bool = False,
) -> list[dict[str, Any]]:
    """Find the images whose values are far from those of other images of their contrast.

    Segmentations by different methods are not compared.

    Parameters
    ----------
    rows : sequence of mapping
        Wide rows of a group table, one per image.
    names : sequence of str
        Columns to look at.
    table : str
        What to call the table.
    logarithmic : bool
        Whether values are volumes, to be compared by their logarithm (plus one, for those of 0).

    Returns
    -------
    list of dict
        One per image and column in which it stands out: the image's identity and
        :data:`OUTLIER_COLUMNS`, sorted by image, then by how far out it is.
    """
    values = _matrix(rows, names)
    by_contrast: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_contrast[row['contrast'], row['method']].append(i)
    found = []
    for members in by_contrast.values():
        for column, name in enumerate(names):
            known = values[members, column]
            scores = robust_z(np.log1p(known) if logarithmic else known)
            for i in map(int, np.flatnonzero(abs(scores) > MAX_Z)):
                typical, _, n = robust_spread(known)
                found.append({
                    **rows[members[i]],
                    'statistic': name,
                    'table': table,
                    'value': float(known[i]),
                    'typical': typical,
                    'robust_z': float(scores[i]),
                    'n_images': n,
                })  # fmt: skip
    return sorted(found, key=lambda row: (row['source'], row['method'], -abs(row['robust_z'])))


def reliability(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the volumes of pairs of images that should have the same.

    Parameters
    ----------
    rows : sequence of mapping
        Wide rows of the table of volumes, one per image.
    names : sequence of str
        Structures.

    Returns
    -------
    list of dict
        With the keys :data:`RELIABILITY_COLUMNS`.
    """
    methods = sorted({row['method'] for row in rows})
    return [
        {'method': method, **found}
        for method in methods
        for found in _reliability([row for row in rows if row['method'] == method], names)
    ]


def _reliability(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Compare pairs of images that one method segmented."""
    values = _matrix(rows, names)
    found = []
    for comparison, contrasts, pairs in _pairs(rows):
        both = values[np.array(pairs)]
        for column, name in enumerate(names):
            scores = both[:, :, column]
            scores = scores[~np.isnan(scores).any(axis=1)]
            icc_2_1, icc_3_1 = intraclass_correlations(scores)
            present = scores[scores.mean(axis=1) > 0]
            differences = (present[:, 1] - present[:, 0]) / present.mean(axis=1)
            found.append({
                'comparison': comparison,
                'contrast_1': contrasts[0],
                'contrast_2': contrasts[1],
                'name': name,
                'n_pairs': len(scores),
                'icc_2_1': icc_2_1,
                'icc_3_1': icc_3_1,
                'cv': within_target_cv(scores),
                'mean_difference': 100 * float(differences.mean()) if len(present) else None,
            })  # fmt: skip
    return found


def _pairs(
    rows: Sequence[Mapping[str, str]],
) -> Iterator[tuple[str, tuple[str, str], list[tuple[int, int]]]]:
    """Yield the pairs of rows of every two contrasts, then those of the visits of each."""
    # The first image of each contrast in each session.
    sessions: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for i in sorted(range(len(rows)), key=lambda i: rows[i]['source']):
        session = rows[i]['participant_id'], rows[i]['session_id']
        sessions[session].setdefault(rows[i]['contrast'], i)
    contrasts = sorted({contrast for images in sessions.values() for contrast in images})
    for one, other in combinations(contrasts, 2):
        pairs = [(s[one], s[other]) for s in sessions.values() if one in s and other in s]
        if pairs:
            yield 'contrasts', (one, other), pairs
    for contrast in contrasts:
        visits: dict[str, list[int]] = defaultdict(list)
        for (participant, _), images in sorted(sessions.items()):
            if contrast in images:
                visits[participant].append(images[contrast])
        pairs = [(images[0], images[1]) for images in visits.values() if len(images) > 1]
        if pairs:
            yield 'visits', (contrast, contrast), pairs


def _matrix(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> np.ndarray:
    """Return the numbers of some columns, NaN where there is none."""
    cells = ((row.get(name, 'n/a') for name in names) for row in rows)
    return np.array(
        [[np.nan if cell == 'n/a' else float(cell) for cell in row] for row in cells]
    ).reshape(len(rows), len(names))
