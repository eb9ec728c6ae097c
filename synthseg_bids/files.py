"""Files: text as people save it, writing that no reader sees half of, and checksums."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class EncodingError(ValueError):
    """A text file is in an encoding that cannot be told."""


def write_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file that appears under its name only once it is complete.

    Parameters
    ----------
    path : Path
    fill : function of a path
        Writes the content under a temporary name, which ends as the other, in the same folder.

    Raises
    ------
    OSError
        If the disk is full, or the folder is missing or cannot be written; it names `path`.
    """
    # A leading dot: readers of BIDS datasets ignore it should we be killed half-way. The number
    # of a process is not enough, since every container has its own process 1.
    temporary = path.with_name(f'.{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}')
    try:
        fill(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename2 is None and error.filename not in (None, str(temporary)):
            raise  # about the source
        # The system does not name the file if the disk is full.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Read text that people wrote: UTF-8, with or without byte order mark, or UTF-16 with one.

    Every text file that comes from outside is read by this function.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        Lines end with a line feed.

    Raises
    ------
    OSError
    EncodingError
        If it is something else, such as Latin-1, of which nobody can tell what it says.
    """
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode('utf-16' if marked else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b'\n') + 1
        raise EncodingError(
            f'{path}: line {line} is neither UTF-8 nor UTF-16; save the file as UTF-8'
        ) from error
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_description(path: Path) -> dict[str, Any]:
    """Read a JSON object that describes something, such as a sidecar.

    Returns
    -------
    dict
        Empty if the file is absent; if it cannot be used, with a warning that names it.
    """
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict):
            raise ValueError('not a JSON object')
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        logger.warning('%s: cannot be read (%s); going on without it', path, error)
        return {}
    return content


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written; none may be at work in the folder."""
    for path in folder.glob('.*-*') if folder.is_dir() else ():
        if re.match(r'\.\d+-', path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name in the same folder, then rename it."""
    # File names need not be text.
    content = text.encode(errors='backslashreplace')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def sidecar(image: Path) -> Path:
    """Name the JSON file beside an image.

    Examples
    --------
    >>> sidecar(Path('labels.nii.gz')).name
    'labels.json'
    """
    return image.with_name(image.name.removesuffix('.gz').removesuffix('.nii') + '.json')


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object; see :func:`write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; missing, None and not-a-number become ``n/a``.

    Parameters
    ----------
    path : Path
        Cells are separated by commas in ``.csv``, otherwise by tabs.
    columns : iterable of str
    rows : iterable of mapping
        Floats are written with six significant digits, at least to the thousandth.
    """
    columns = list(columns)
    write_cells(path, columns, ([cell(row.get(column)) for column in columns] for row in rows))


def write_cells(path: Path, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a table of text; see :func:`write_table`."""

    def fill(temporary: Path) -> None:
        cells = chain([columns], rows)
        # File names need not be text.
        with temporary.open('w', encoding='utf-8', errors='backslashreplace', newline='') as file:
            if path.suffix == '.csv':
                csv.writer(file, lineterminator='\n').writerows(cells)
            else:
                file.writelines('\t'.join(row) + '\n' for row in cells)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, fill)


def cell(value: Any) -> str:
    """Write a value as in a table; see :func:`write_table`."""
    if value is None or value != value or value == '':
        return 'n/a'
    if isinstance(value, float):
        return f'{value:.3f}' if abs(value) >= 1000 else f'{value:.6g}'
    return ' '.join(str(value).split())


def read_table(path: Path, columns: Container[str] | None = None) -> list[dict[str, str]]:
    """Read a tab-separated table; an absent file has no rows.

    Parameters
    ----------
    path : Path
    columns : container of str, optional
        Those to keep (default: all).
    """
    if not path.exists():
        return []
    header, *lines = read_text(path).split('\n') or ['']
    names = header.split('\t')
    rows = [zip(names, line.split('\t'), strict=False) for line in lines if line]
    if columns is None:
        return [dict(row) for row in rows]
    return [{name: value for name, value in row if name in columns} for row in rows]


def remove_table(path: Path) -> None:
    """Remove a table and the data dictionary beside it; they may be absent."""
    path.unlink(missing_ok=True)
    path.with_suffix('.json').unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content; see :func:`write_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: shutil.copyfile(source, temporary))


def sha256(path: Path) -> str:
    """Return a file's SHA-256 checksum in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
