"""Detect damaged intermediate results in the working directory, and remove them."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from synthseg_bids.bids.records import fault, quick_record, unreadable
from synthseg_bids.files import write_json

logger = logging.getLogger(__name__)

#: Record of a node's files, to compare them with.
_NOTED = '_written.json'


def note_results(folder: Path) -> None:
    """Record the files that a node has written, unless the record is up to date.

    Parameters
    ----------
    folder : Path
        Folder of the node; if it is not writable, there is no record.
    """
    noted = folder / _NOTED
    with suppress(OSError):
        results = max(
            (path.stat().st_mtime for path in folder.glob('result_*.pklz')), default=None
        )
        if results is None or (noted.exists() and noted.stat().st_mtime >= results):
            return
        write_json(noted, {path.name: quick_record(path) for path in _files(folder)})


def _files(folder: Path) -> Iterator[Path]:
    """List the files of a node that other nodes may read."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != _NOTED and path.suffix not in ('.json', '.rst'):
            yield path


def drop_damaged(image_folder: Path) -> list[str]:
    """Remove the results of nodes with damaged files, so that they run again.

    Parameters
    ----------
    image_folder : Path
        Folder with a subfolder for each node of an image; need not exist.

    Returns
    -------
    list of str
        Names of these nodes.
    """
    if not image_folder.is_dir():
        return []
    dropped = []
    for folder in sorted(path for path in image_folder.iterdir() if path.is_dir()):
        if what := _damage(folder):
            logger.warning('%s; it is made again', what)
            shutil.rmtree(folder)
            dropped.append(folder.name)
    return dropped


def _damage(folder: Path) -> str:
    """Return which file of a node is damaged, and how; empty if none is."""
    if not any(folder.glob('result_*.pklz')):
        return ''
    try:
        noted = json.loads((folder / _NOTED).read_text())
    except (OSError, ValueError):
        noted = {}
    for name in {**noted, **{path.name: None for path in _files(folder)}}:
        path = folder / name
        what = fault(path, noted.get(name) or {}) or _broken_archive(path)
        if what := what or unreadable(path, whole=True):
            return f'{path}: {what}'
    return ''


def _broken_archive(path: Path) -> str:
    """Return why a result file of Nipype cannot be read; empty if it can."""
    if path.suffix != '.pklz':
        return ''
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        return f'cannot be read ({error})'
    return ''
