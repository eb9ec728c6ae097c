"""Files: written so that no reader ever sees half of one, and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot: readers of BIDS datasets ignore it should we be killed half-way. The number
    # of a process is not enough, since every container has its own process 1.
    temporary = path.with_name(f'.{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}')
    try:
        fill(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename2 is None and error.filename not in (None, str(temporary)):
            raise  # about the source
        # Of a full disk the system does not say which.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written; none may be at work in the folder."""
    for path in folder.glob('.*-*') if folder.is_dir() else ():
        if re.match(r'\.\d+-', path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name in the same folder, then rename it."""
    # File names need not be text.
    content = text.encode(errors='backslashreplace')
    _write(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object; see :func:`write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a tab-separated table; missing, None and not-a-number become ``n/a``.

    Parameters
    ----------
    path : Path
    columns : iterable of str
    rows : iterable of mapping
        Floats are written with six significant digits, at least to the thousandth.
    """
    columns = list(columns)
    lines = ['\t'.join(columns)]
    lines += ['\t'.join(_cell(row.get(column)) for column in columns) for row in rows]
    write_text(path, '\n'.join(lines) + '\n')


def _cell(value: Any) -> str:
    if value is None or value != value or value == '':
        return 'n/a'
    if isinstance(value, float):
        return f'{value:.3f}' if abs(value) >= 1000 else f'{value:.6g}'
    return ' '.join(str(value).split())


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a tab-separated table; an absent file has no rows."""
    if not path.exists():
        return []
    header, *lines = path.read_text(encoding='utf-8').splitlines() or ['']
    columns = header.split('\t')
    return [dict(zip(columns, line.split('\t'), strict=False)) for line in lines if line]


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content; see :func:`write_text`."""
    _write(path, lambda temporary: shutil.copyfile(source, temporary))


def sha256(path: Path) -> str:
    """Return a file's SHA-256 checksum in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
