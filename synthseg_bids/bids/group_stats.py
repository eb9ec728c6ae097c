"""Statistics over the images of a dataset: outliers, and agreement of repeated images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
import pandas as pd

from synthseg_bids.measure.stats import (
    MIN_VALUES,
    intraclass_correlations,
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
    images: pd.DataFrame, names: Sequence[str], table: str, logarithmic: bool = False
) -> list[dict[str, Any]]:
    """Find the images whose values are far from those of other images of their contrast.

    Segmentations by different methods are not compared.

    Parameters
    ----------
    images : DataFrame of str
        Group table, a row per image.
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
    if images.empty:
        return []
    values = _numbers(images, names)
    by_contrast = [images['contrast'], images['method']]
    scores = np.log1p(values) if logarithmic else values
    robust = scores.groupby(by_contrast).transform(lambda known: robust_z(known.to_numpy()))
    groups = values.groupby(by_contrast)
    rows, columns = np.nonzero(robust.abs().to_numpy() > MAX_Z)
    found = images.iloc[rows].assign(
        statistic=values.columns[columns],
        table=table,
        value=values.to_numpy()[rows, columns],
        typical=groups.transform('median').to_numpy()[rows, columns],
        robust_z=robust.to_numpy()[rows, columns],
        n_images=groups.transform('count').to_numpy()[rows, columns],
    )
    by_distance = found.assign(distance=-found['robust_z'].abs())
    by_distance = by_distance.sort_values(['source', 'method', 'distance'], kind='stable')
    return cast(list[dict[str, Any]], by_distance.to_dict('records'))


def reliability(images: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the volumes of pairs of images that should have the same.

    Parameters
    ----------
    images : DataFrame of str
        Table of volumes, a row per image.
    names : sequence of str
        Structures.

    Returns
    -------
    list of dict
        With the keys :data:`RELIABILITY_COLUMNS`.
    """
    return [
        {'method': method, **found}
        for method, segmented in images.groupby('method')
        for found in _reliability(segmented.reset_index(drop=True), names)
    ]


def _reliability(images: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Compare pairs of images that one method segmented."""
    values = _numbers(images, names).to_numpy()
    found = []
    for comparison, contrasts, pairs in _pairs(images):
        both = values[pairs]
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


def _pairs(images: pd.DataFrame) -> Iterator[tuple[str, tuple[str, str], np.ndarray]]:
    """Yield the pairs of rows of every two contrasts, then those of the visits of each."""
    session = ['participant_id', 'session_id']
    # The first image of each contrast in each session.
    first = images.sort_values('source').drop_duplicates([*session, 'contrast'])
    rows = first.assign(row=first.index).pivot(index=session, columns='contrast', values='row')
    for one, other in combinations(rows, 2):
        pairs = rows[[one, other]].dropna()
        if len(pairs):
            yield 'contrasts', (one, other), pairs.to_numpy(int)
    for contrast in rows:
        visits = rows[contrast].dropna().groupby('participant_id')
        two = [visits.nth(i).droplevel('session_id') for i in (0, 1)]
        pairs = pd.concat(two, axis=1, join='inner')
        if len(pairs):
            yield 'visits', (contrast, contrast), pairs.to_numpy(int)


def _numbers(images: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the numbers of some columns, NaN where there is none."""
    table = images.reindex(columns=list(names))
    cells = table.to_numpy(dtype=object)
    # Not DataFrame.replace, whose types depend on the release of pandas.
    numbers = np.where(cells == 'n/a', np.nan, cells).astype(float)
    return pd.DataFrame(numbers, table.index, table.columns)
