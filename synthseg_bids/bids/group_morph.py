"""The volumes of all images, ready for statistics: a wide and a long table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synthseg_bids.labels import LESION_NAME, segmentation_labels
from synthseg_bids.measure.qc_rules import FAIL, VERDICT
from synthseg_bids.measure.stats import MIN_VALUES, regression_residuals
from synthseg_bids.parcels import parcel_labels

from ..files import cell, write_cells
from .covariates import Columns, read_covariates
from .tables import QC_COLUMNS, TOTAL_NAME

PROPORTION, RESIDUAL = '_proportion', '_residual'

_HOW_PROPORTION = f'divided by {TOTAL_NAME} of the same image'
_HOW_RESIDUAL = (
    f'minus what a straight line predicts from {TOTAL_NAME}. The line is fitted by ordinary least '
    'squares to the images of the same contrast and method (repeated images of a participant '
    f'count each) whose {VERDICT} is not {FAIL}; of those the residuals have mean 0. At least '
    f'{MIN_VALUES} of them are needed. The mean volume added gives an adjusted volume'
)
_LONG: Columns = {
    'name': {'Description': 'Name of the structure.'},
    'volume_mm3': {'Description': 'Its volume.', 'Units': 'mm^3'},
    'proportion': {'Description': f'Volume {_HOW_PROPORTION}.'},
    'residual_mm3': {'Description': f'Volume {_HOW_RESIDUAL}.', 'Units': 'mm^3'},
}


@dataclass(frozen=True)
class GroupMorph:
    """The volumes of all images.

    Attributes
    ----------
    table : DataFrame
        A row per image and method: who, which image, verdict, covariates (text), then volumes,
        proportions and residuals (float).
    columns : dict
        Its data dictionary, in order.
    names : tuple of str
        The columns of structures and, the last, the total.
    """

    table: pd.DataFrame
    columns: Columns
    names: tuple[str, ...]

    @property
    def identity(self) -> list[str]:
        """The columns that are neither a volume nor made of one."""
        made = {f'{name}{end}' for name in self.names for end in ('', PROPORTION, RESIDUAL)}
        return [column for column in self.columns if column not in made]


def structure_names(rows: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """List the structures of a table by its rows; lesions and parcels if a row has them."""
    present = {name for row in rows for name in row}
    labels = [label for label in segmentation_labels(LESION_NAME in present) if label.index]
    parcels = parcel_labels()
    if any(label.name in present for label in parcels):
        labels += parcels
    return tuple(label.name for label in labels)


def group_morph(
    rows: Sequence[Mapping[str, str]],
    identity: Columns,
    verdicts: Mapping[tuple[str, str], str],
    raw: Path | None,
) -> GroupMorph:
    """Gather the volumes of all images and what statistics need beside them.

    Parameters
    ----------
    rows : sequence of mapping
        Of each image and method the volumes by structure, as text, and its identity.
    identity : dict
        The columns of the latter and their descriptions.
    verdicts : mapping
        Verdict of quality control by ``source`` and ``method``.
    raw : Path or None
        The raw dataset; without it there are no covariates.
    """
    names = (*structure_names(rows), TOTAL_NAME)
    images = pd.DataFrame(rows, columns=[*identity], dtype=object)
    judged = [verdicts.get(key) for key in zip(images['source'], images['method'], strict=True)]
    volumes = pd.DataFrame(rows, columns=[*names]).apply(pd.to_numeric, errors='coerce')
    about: Columns = {name: _volume(f'Volume of {name}') for name in names}
    for name in names[:-1]:
        about[name + PROPORTION] = {'Description': f'Volume of {name}, {_HOW_PROPORTION}.'}
    for name in names[:-1]:
        about[name + RESIDUAL] = _volume(f'Volume of {name}, {_HOW_RESIDUAL}')
    who = {**identity, VERDICT: {'Description': 'Verdict of quality control; see group_qc.tsv.',
                                 'Levels': QC_COLUMNS['flag']['Levels']}}  # fmt: skip
    covariates = pd.DataFrame(index=images.index)
    described: Columns = {}
    if raw is not None:
        covariates, described = read_covariates(raw, images, {*who, *about, *_LONG})
    images[VERDICT] = pd.Series(judged, dtype=object)
    proportions, residuals = _correct(volumes, images)
    table = pd.concat([images, covariates, volumes, proportions, residuals], axis=1)
    return GroupMorph(table, {**who, **described, **about}, names)


def _volume(what: str) -> dict[str, Any]:
    return {'Description': f'{what}.', 'Units': 'mm^3'}


def _correct(volumes: pd.DataFrame, images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Correct volumes for the size of the head."""
    structures = volumes.drop(columns=TOTAL_NAME)
    total = volumes[TOTAL_NAME].where(volumes[TOTAL_NAME] > 0)
    residuals = pd.DataFrame(np.nan, structures.index, structures.columns)
    for _, group in images.groupby(['contrast', 'method']):
        rows = group.index
        residuals.loc[rows] = regression_residuals(
            structures.loc[rows].to_numpy(float),
            total.loc[rows].to_numpy(float),
            (group[VERDICT] != FAIL).to_numpy(),
        )
    proportions = structures.div(total, axis=0)
    return proportions.add_suffix(PROPORTION), residuals.add_suffix(RESIDUAL)


def write_wide(path: Path, morph: GroupMorph) -> None:
    """Write one row per image; see :func:`.files.write_table`."""
    write_cells(path, morph.columns, _cells(morph).itertuples(index=False, name=None))


def write_long(path: Path, morph: GroupMorph) -> Columns:
    """Write one row per image and structure, and return the data dictionary.

    Columns are the identity of the image, its covariates and total, name of the structure,
    volume, proportion and residual.
    """
    columns = {name: morph.columns[name] for name in (*morph.identity, morph.names[-1])} | _LONG
    write_cells(path, columns, _long_rows(morph))
    return columns


def _long_rows(morph: GroupMorph) -> Iterator[tuple[str, ...]]:
    # The cells of the long table would take far more memory than those of the wide one.
    cells = _cells(morph)
    *structures, total = morph.names
    shared = cells[[*morph.identity, total]].itertuples(index=False, name=None)
    measured = [
        cells[[name, name + PROPORTION, name + RESIDUAL]].itertuples(index=False, name=None)
        for name in structures
    ]
    for about, *values in zip(shared, *measured, strict=True):
        for name, three in zip(structures, values, strict=True):
            yield *about, name, *three


def _cells(morph: GroupMorph) -> pd.DataFrame:
    return morph.table[[*morph.columns]].map(cell)
