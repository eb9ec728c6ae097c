"""What a raw dataset says of participants, sessions and scanners, for the tables of its images."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import EncodingError, read_description, read_table
from .inheritance import Sidecars
from .names import uri_path

logger = logging.getLogger(__name__)

Columns = dict[str, dict[str, Any]]

#: Columns that come from the sidecars of the images, and their BIDS names.
_SCANNER: dict[str, tuple[str, dict[str, str]]] = {
    'manufacturer': ('Manufacturer', {'Description': 'Manufacturer of the scanner.'}),
    'scanner': ('ManufacturersModelName', {'Description': 'Model of the scanner.'}),
    'scanner_serial': ('DeviceSerialNumber', {'Description': 'Serial number of the scanner.'}),
    'field_strength': (
        'MagneticFieldStrength',
        {'Description': 'Nominal field strength of the scanner.', 'Units': 'T'},
    ),
}


def read_covariates(
    raw: Path, images: pd.DataFrame, taken: Collection[str] = ()
) -> tuple[pd.DataFrame, Columns]:
    """Join participants.tsv, the sessions.tsv of all participants and the sidecars of images.

    Parameters
    ----------
    raw : Path
        The raw dataset.
    images : DataFrame of str
        A row per image: ``participant_id``, ``session_id`` (empty if there are none) and
        ``source``.
    taken : collection of str
        Names of columns that are in use; columns that have one become ``raw_<name>``, as do those
        that have the name of an entity.

    Returns
    -------
    covariates : DataFrame of str
        By the index of `images`: all columns of participants.tsv, then those of sessions.tsv,
        which has the last word on what both have, then those of the scanner that are known.
        Unknown values are NaN.
    columns : dict
        The data dictionary, from participants.json and sessions.json where they describe a
        column.
    """
    people = _read_people(raw / 'participants.tsv')
    names = sorted({*images['participant_id']})
    visits = pd.concat([pd.DataFrame(), *(_read_visits(raw, name) for name in names)])
    joined = _join(images, people)
    of_visits = _join(images, visits)
    columns = [*joined, *(name for name in of_visits if name not in joined)]
    both = of_visits.combine_first(joined).reindex(columns=columns)
    known = {
        **read_description(raw / 'sessions.json'),
        **read_description(raw / 'participants.json'),
    }
    described = {name: _describe(name, known) for name in columns}
    scanners = _read_scanners(raw, images)
    found = pd.concat([both, scanners], axis=1)
    described |= {name: _SCANNER[name][1] for name in scanners if name not in described}
    # A column "scanner" of participants.tsv stays what it is.
    found = found.loc[:, ~found.columns.duplicated()]
    reserved = {*taken, *(_entities() if described else ())}
    free = {name: f'raw_{name}' if name in reserved else name for name in described}
    return found.rename(columns=free), {free[name]: about for name, about in described.items()}


def _entities() -> set[str]:
    """List the keys of a sidecar that pybids takes for entities; see :data:`.group._IDENTITY`."""
    from bids.layout import Config

    return {name for kind in ('bids', 'derivatives') for name in Config.load(kind).entities}


def _describe(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    about = known.get(name)
    if isinstance(about, dict):
        return about
    return {'Description': 'Of participants.tsv or sessions.tsv of the raw dataset.'}


def _read_people(path: Path) -> pd.DataFrame:
    """Read participants.tsv, which may have a row per session."""
    people = _read(path, 'participant_id')
    if people.empty:
        return people
    people['participant_id'] = 'sub-' + people['participant_id'].str.removeprefix('sub-')
    if 'session_id' in people:
        sessions = people['session_id'].fillna('')
        people['session_id'] = sessions.where(sessions == '', _prefixed(sessions))
    return _without_repeats(people, path)


def _read_visits(raw: Path, participant: str) -> pd.DataFrame:
    path = raw / participant / f'{participant}_sessions.tsv'
    visits = _read(path, 'session_id')
    if visits.empty:
        return visits
    visits['session_id'] = _prefixed(visits['session_id'])
    return _without_repeats(visits.assign(participant_id=participant), path)


def _prefixed(sessions: pd.Series) -> pd.Series:
    return 'ses-' + sessions.str.removeprefix('ses-')


def _read(path: Path, key: str) -> pd.DataFrame:
    """Read a table of the raw dataset; rows without a key, and n/a, are unknown."""
    try:
        table = pd.DataFrame(read_table(path), dtype=object)
    except (OSError, EncodingError) as error:
        logger.warning('%s; going on without it', error)
        return pd.DataFrame()
    if table.empty:
        return pd.DataFrame()
    if key not in table:
        logger.warning('%s: has no column %s; going on without it', path, key)
        return pd.DataFrame()
    # Editors leave empty columns behind.
    named = table.drop(columns='', errors='ignore')
    known = named.map(lambda value: str(value).strip(), na_action='ignore')
    known = known.where(~known.isin(['n/a', '']))
    return known[known[key].notna()].reset_index(drop=True)


def _without_repeats(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    keys = _keys(table)
    repeated = table.duplicated(keys)
    if repeated.any():
        which = ' '.join(table.loc[repeated, keys].iloc[0])
        logger.warning('%s: has several rows of %s; the first counts', path, which)
    return table[~repeated]


def _keys(table: pd.DataFrame) -> list[str]:
    return [key for key in ('participant_id', 'session_id') if key in table]


def _join(images: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Look up the row of each image; what it holds beside its keys, by the images' index."""
    if table.empty:
        return pd.DataFrame(index=images.index)
    keys = _keys(table)
    rows = images[keys].merge(table, how='left', on=keys, validate='many_to_one')
    return rows.set_index(images.index).drop(columns=keys)


def _read_scanners(raw: Path, images: pd.DataFrame) -> pd.DataFrame:
    sidecars = Sidecars(raw)
    described = [sidecars.metadata(uri_path(source)) for source in images['source']]
    rows: Sequence[dict[str, Any]] = [
        {column: about.get(key) for column, (key, _) in _SCANNER.items()} for about in described
    ]
    return pd.DataFrame(rows, images.index, dtype=object).dropna(axis=1, how='all')
