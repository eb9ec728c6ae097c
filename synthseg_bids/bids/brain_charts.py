"""The table that the brain charts of Bethlehem et al. (Nature 604:525, 2022) take.

Columns are those of their template; volumes are ours, and marked as such (``fs_version``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synthseg_bids import __version__
from synthseg_bids.external.fs_stats import labels_of_measure
from synthseg_bids.external.methods import OURS
from synthseg_bids.labels import LESION, segmentation_labels
from synthseg_bids.measure.qc_rules import FAIL, VERDICT

from ..files import cell, write_cells, write_json
from .covariates import Columns
from .group_morph import GroupMorph
from .metadata import APP, read_description

logger = logging.getLogger(__name__)

#: Of the template: a year, and birth after conception.
DAYS_PER_YEAR, DAYS_TO_BIRTH = 365.245, 280
_DAYS = {'y': DAYS_PER_YEAR, 'm': DAYS_PER_YEAR / 12, 'w': 7.0, 'd': 1.0}
#: FreeSurfer's BrainSegVol less BrainSegVolNotVent, but for the CSF around the brain.
VENTRICLES = (4, 5, 14, 15, 43, 44)
_VOLUMES = {
    'GMV': (labels_of_measure('CortexVol'), 'Cortical grey matter'),
    'WMV': (
        labels_of_measure('CerebralWhiteMatterVol'),
        'Cerebral white matter, lesions included',
    ),
    'sGMV': (labels_of_measure('SubCortGrayVol'), 'Subcortical grey matter'),
    'Ventricles': (VENTRICLES, 'Lateral, third and fourth ventricles'),
}
_CONTROL = 'CN'
_CONTROLS = {
    'cn', 'control', 'controls', 'hc', 'healthy', 'healthy control', 'healthy controls', 'nc',
    'normal', 'td', 'typically developing',
}  # fmt: skip
_DIAGNOSIS = ('dx', 'diagnosis', 'group')
_SEXES = {'m': 'Male', 'male': 'Male', 'f': 'Female', 'female': 'Female'}


def write_brain_charts(path: Path, morph: GroupMorph, raw: Path | None) -> None:
    """Write one image per session as the brain charts take it, and its data dictionary.

    Images that failed quality control or were segmented by other methods are left out; of the
    others of a session a T1w counts first, then the first by name.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``; unknown values are ``NA``, as R reads them.
    morph : GroupMorph
    raw : Path or None
        The raw dataset, after whose name the study is called.
    """
    images = _choose(morph.table)
    if images.empty:
        logger.warning('%s: no image for the brain charts; not written', path)
        return
    about = read_description(raw) if raw else None
    study = str((about or {}).get('Name') or 'study')
    rows = chart_rows(images, study, _age_unit(morph.columns))
    for column, what in (('Age', 'age'), ('sex', 'sex'), ('dx', f'control ({_CONTROL})')):
        known = rows['dx'].eq(_CONTROL) if column == 'dx' else rows[column].notna()
        if not known.any():
            logger.warning('%s: no %s is known; fill in the column %s', path, what, column)
    cells = rows.astype(object).where(rows.notna(), None).map(cell).replace('n/a', 'NA')
    write_cells(path, [*cells], cells.itertuples(index=False, name=None))
    write_json(path.with_suffix('.json'), _dictionary())


def chart_rows(images: pd.DataFrame, study: str, age_unit: str = 'years') -> pd.DataFrame:
    """Turn rows of the group table into rows of the brain charts.

    Parameters
    ----------
    images : DataFrame
        See :attr:`.group_morph.GroupMorph.table`.
    study : str
        Name of the study; that of a column ``study`` and, added to it, ``site`` count more.
    age_unit : str
        Unit of the column ``age``: years, months, weeks or days.

    Returns
    -------
    DataFrame
        Volumes in mm^3; unknown values are NaN or None.
    """
    age = pd.to_numeric(_column(images, 'age'), errors='coerce').to_numpy(float, na_value=np.nan)
    days = age * _DAYS.get(age_unit[:1].lower(), DAYS_PER_YEAR)
    rows = pd.DataFrame({
        'participant': images['participant_id'],
        'Age': days / DAYS_PER_YEAR,
        'age_days': days + DAYS_TO_BIRTH,
        'AgeTransformed': np.log(days + DAYS_TO_BIRTH),
        'sex': _column(images, 'sex').str.lower().map(_SEXES),
        'study': _studies(images, study),
        'fs_version': f'{APP}-{__version__}',
        'country': _column(images, 'country'),
        'run': images['run_id'].replace('', '1'),
        'session': images['session_id'].str.removeprefix('ses-').replace('', '1'),
        'dx': _diagnoses(images),
    })  # fmt: skip
    for column, (labels, _) in _VOLUMES.items():
        rows[column] = _sum(images, labels)
    rows['TCV'] = rows['GMV'] + rows['WMV']
    return rows.assign(contrast=images['contrast'], source=images['source'])


def _choose(table: pd.DataFrame) -> pd.DataFrame:
    usable = table[(table['method'] == OURS) & (table[VERDICT] != FAIL)]
    order = usable.assign(other=usable['contrast'] != 'T1w').sort_values(
        ['participant_id', 'session_id', 'other', 'source'], kind='stable'
    )
    return order.drop_duplicates(['participant_id', 'session_id']).reset_index(drop=True)


def _column(images: pd.DataFrame, *names: str) -> pd.Series:
    """Return the first of some columns that exists; text."""
    for name in names:
        if name in images:
            return images[name].astype(object).where(images[name].notna()).astype('string')
    return pd.Series(pd.NA, images.index, dtype='string')


def _studies(images: pd.DataFrame, study: str) -> pd.Series:
    names = _column(images, 'study').fillna(study)
    sites = _column(images, 'site', 'site_id')
    full = (names + '_' + sites).fillna(names)
    return full.str.replace('[^A-Za-z0-9]+', '_', regex=True).str.strip('_')


def _diagnoses(images: pd.DataFrame) -> pd.Series:
    found = _column(images, *_DIAGNOSIS)
    return found.mask(found.str.lower().isin(_CONTROLS), _CONTROL)


def _sum(images: pd.DataFrame, labels: tuple[int, ...]) -> pd.Series:
    names = {label.index: label.name for label in segmentation_labels(lesions=True)}
    total = sum(images[names[label]] for label in labels if label != LESION)
    if LESION in labels and names[LESION] in images:
        total = total + images[names[LESION]].fillna(0)
    return total


def _age_unit(columns: Mapping[str, Mapping[str, Any]]) -> str:
    unit = re.sub('[^a-z]', '', str(columns.get('age', {}).get('Units', '')).lower())
    return unit or 'years'


def _dictionary() -> Columns:
    """Describe the columns."""
    ml = {
        column: {'Description': f'{what}.', 'Units': 'mm^3'}
        for column, (_, what) in _VOLUMES.items()
    }
    first = ' or '.join(_DIAGNOSIS)
    return {
        'participant': {'Description': 'Participant.'},
        'Age': {'Description': 'Age after birth.', 'Units': 'year'},
        'age_days': {
            'Description': f'Age after conception: {DAYS_PER_YEAR} days a year, and '
            f'{DAYS_TO_BIRTH} days until birth.',
            'Units': 'day',
        },
        'AgeTransformed': {'Description': 'Natural logarithm of age_days.'},
        'sex': {'Description': 'Female or Male.'},
        'study': {'Description': 'The column study of participants.tsv, or else the name of the '
                  'raw dataset; with the column site, where there is one.'},
        'fs_version': {'Description': f'Pipeline of the volumes: {APP} with its version, not a '
                       'version of FreeSurfer.'},
        'country': {'Description': 'The column country of participants.tsv.'},
        'run': {'Description': 'The run entity of the image; 1 if it has none.'},
        'session': {'Description': 'The ses entity of the image; 1 if it has none.'},
        'dx': {'Description': f'The column {first} of participants.tsv; {_CONTROL} for controls.'},
        **ml,
        'TCV': {'Description': 'Total cerebrum: GMV and WMV.', 'Units': 'mm^3'},
        'contrast': {'Description': 'Suffix of the image; not of the template.'},
        'source': {'Description': 'BIDS URI of the image; not of the template.'},
    }  # fmt: skip
