"""Index of the anatomical images of a dataset, by pybids.

Only ``sub-*/[ses-*/]anat`` is walked and no sidecar is read, so that thousands of subjects take
seconds. With a database the next run takes the index from a file.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import QueryError
from .filters import Filters

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

#: The file that pybids keeps in the folder of a database.
DATABASE_FILE = 'layout_index.sqlite'
#: Entities that pybids knows by another name than file names do.
_PYBIDS_NAMES = {
    'sub': 'subject',
    'ses': 'session',
    'acq': 'acquisition',
    'ce': 'ceagent',
    'rec': 'reconstruction',
    'dir': 'direction',
    'mod': 'modality',
    'trc': 'tracer',
    'stain': 'staining',
}


@dataclass(frozen=True)
class Index:
    """Files that pybids found, and those that the filters select.

    Attributes
    ----------
    files : frozenset of str
        Paths relative to the dataset, with forward slashes.
    selected : mapping of str to frozenset of str
        For suffixes that have a filter, the files that pass it. Absent are those whose filter
        pybids would misread; :func:`synthseg_bids.bids.filters.mismatch` decides on them.
    stored : bool
        Whether it comes from a database, which may be older than the dataset.
    """

    files: frozenset[str]
    selected: Mapping[str, frozenset[str]]
    stored: bool = False


def index_images(
    bids_dir: Path,
    participants: Iterable[str] | None = None,
    filters: Filters | None = None,
    database: Path | None = None,
    wipe: bool = False,
) -> Index:
    """Index the images of a dataset, and query it with the filters.

    Parameters
    ----------
    bids_dir : Path
    participants : iterable of str, optional
        Labels to restrict to. A database holds all participants, for later runs.
    filters : mapping, optional
        From :func:`synthseg_bids.bids.filters.read_filters`.
    database : Path, optional
        Folder of a database of pybids; it is written unless it exists.
    wipe : bool
        Whether to write it anew.

    Returns
    -------
    Index

    Raises
    ------
    QueryError
        If the dataset cannot be indexed, or the database is that of another dataset.
    """
    try:
        os.fspath(bids_dir).encode()
    except UnicodeEncodeError:
        name = os.fspath(bids_dir).encode(errors='backslashreplace').decode()
        raise QueryError(
            f'{name}: the path is not UTF-8; rename the folder or link to it'
        ) from None
    if database is None:
        opened = _open(bids_dir, _unwanted(bids_dir, participants))
    else:
        if wipe or not (database / DATABASE_FILE).exists():
            _write_database(bids_dir, database)
        _check_database(bids_dir, database)
        opened = _open(bids_dir, _unwanted(bids_dir), database)
    with opened as layout:
        files = _relative(layout, {})
        selected = {
            suffix: _relative(layout, {'suffix': suffix, **query})
            for suffix, query in (filters or {}).items()
            if not _misread(layout.root, query)
        }
    return Index(files, selected, stored=database is not None)


def _unwanted(bids_dir: Path, participants: Iterable[str] | None = None) -> re.Pattern[str]:
    """Return the pattern of the paths that pybids passes over.

    Names that are not UTF-8 are among them, since its database cannot hold them, and folders
    that may not be read, since the whole dataset would fail by one of them.
    """
    labels = '[^/]+' if participants is None else '|'.join(map(re.escape, participants))
    anat = r'anat(?:/[^/]*\.nii(?:\.gz)?)?'
    wanted = rf'sub-(?:{labels})(?:/ses-[^/]+)?(?:/{anat})?'
    closed = [f'^/{re.escape(path)}(?:/|$)' for path in _closed_folders(bids_dir)]
    return re.compile('|'.join([rf'^/(?!$|{wanted}$)|[\ud800-\udfff]', *closed]))


def _closed_folders(bids_dir: Path) -> Iterator[str]:
    """Yield folders above images that cannot be entered or listed for lack of permission."""
    for subject in sorted(bids_dir.glob('sub-*')):
        folders = [subject, subject / 'anat']
        if os.access(subject, os.R_OK | os.X_OK):
            sessions = [path for path in subject.iterdir() if path.name.startswith('ses-')]
            folders += [place for path in sessions for place in (path, path / 'anat')]
        for folder in folders:
            # A missing folder is no lack of permission.
            if os.path.lexists(folder) and not os.access(folder, os.R_OK | os.X_OK):
                yield folder.relative_to(bids_dir).as_posix()


@contextmanager
def _open(
    bids_dir: Path, unwanted: re.Pattern[str], database: Path | None = None
) -> Iterator[BIDSLayout]:
    """Index a dataset, or open the database that has its index; close it at the end."""
    # Importing pybids takes as long as --help may.
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    where = database or bids_dir
    try:
        with warnings.catch_warnings():
            # Of descriptions in an older form; whether the dataset is valid is asked elsewhere.
            warnings.simplefilter('ignore')
            layout = BIDSLayout(
                str(bids_dir.absolute()),
                validate=False,
                config=['bids'],
                database_path=None if database is None else str(database),
                indexer=BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[unwanted]),
            )
    except AttributeError as error:
        # pybids takes the description for a JSON object, whatever it is.
        raise QueryError(
            f'{bids_dir}/dataset_description.json: not a JSON object; correct it'
        ) from error
    except (OSError, ValueError, SQLAlchemyError) as error:
        reason = ' '.join(str(error).split())
        raise QueryError(f'{where}: cannot be indexed ({reason}); check the folder') from error
    try:
        yield layout
    except SQLAlchemyError as error:
        reason = str(error).partition('\n')[0]
        raise QueryError(
            f'{where}: cannot be queried ({reason}); use --bids-database-wipe'
        ) from error
    finally:
        layout.session.close()
        layout.connection_manager.engine.dispose()


def _write_database(bids_dir: Path, database: Path) -> None:
    """Write the index of all participants; a killed run leaves no partial index."""
    temporary = database / f'.{os.getpid()}-{uuid.uuid4().hex[:8]}'
    try:
        temporary.mkdir(parents=True)
        with _open(bids_dir, _unwanted(bids_dir), temporary):
            pass
        os.replace(temporary / DATABASE_FILE, database / DATABASE_FILE)
    except OSError as error:
        raise QueryError(
            f'{database}: cannot be written ({error.strerror}); give --bids-database-dir another '
            'folder'
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_database(bids_dir: Path, database: Path) -> None:
    """Refuse the index of another dataset, which pybids would use without notice."""
    path = (database / DATABASE_FILE).absolute()
    try:
        with closing(sqlite3.connect(f'{path.as_uri()}?mode=ro', uri=True)) as connection:
            (root,) = connection.execute('SELECT root FROM layout_info').fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise QueryError(
            f'{path}: not a database of pybids ({error}); use --bids-database-wipe'
        ) from error
    if os.path.realpath(root) != os.path.realpath(bids_dir):
        raise QueryError(
            f'{path}: has the index of {root}, not of {bids_dir}; give another folder, or use '
            '--bids-database-wipe'
        )


def _misread(root: str, query: Mapping[str, Any]) -> bool:
    """Return whether pybids misreads a part of the dataset's path as a requested entity.

    It looks for entities in absolute paths: in ``/data/func/raw`` all images are functional.

    Examples
    --------
    >>> _misread('/data/ses-a/raw', {'ses': 'b'}), _misread('/data/ses-a/raw', {'run': 1})
    (True, False)
    """
    inside = any(re.search(f'[_/]{re.escape(key)}-', root) for key in query)
    return inside or 'datatype' in query


def _relative(layout: BIDSLayout, query: Mapping[str, Any]) -> frozenset[str]:
    """Query the layout; return paths relative to the dataset."""
    from bids.layout import Query

    enums = {None: Query.NONE, '*': Query.ANY}
    arguments = {}
    for key, value in query.items():
        choices = value if isinstance(value, list) else [value]
        chosen = [enums.get(choice, choice) for choice in choices]
        arguments[_PYBIDS_NAMES.get(key, key)] = value if key == 'regex_search' else chosen
    # An entity that no file has is a query without results, not an error.
    files = layout.get(return_type='filename', invalid_filters='allow', **arguments)
    return frozenset(Path(os.path.relpath(file, layout.root)).as_posix() for file in files)
