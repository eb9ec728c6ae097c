"""Checksums of output files, recorded when they are written, and checks against them."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from ..files import EncodingError, read_text, sha256

logger = logging.getLogger(__name__)

#: Number of bytes at the end of a file that every check reads.
TAIL = 4096
#: Placeholder for the checksum of a sidecar while it is computed.
_BLANK = '0' * 64
_PNG_END = b'IEND\xaeB`\x82'
_NIFTI_HEADER = 352


class TableError(ValueError):
    """A table is incomplete or altered; the message is one line."""


def record(path: Path) -> dict[str, Any]:
    """Return size and checksums of a file, by which damage is detected.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to object
        ``Bytes``, ``TailCRC32`` (of the last 4096 bytes) and ``SHA256``; of tables ``Rows``, too.
    """
    noted = {**quick_record(path), 'SHA256': sha256(path)}
    if path.suffix == '.tsv':
        noted['Rows'] = path.read_bytes().count(b'\n') - 1
    return noted


def quick_record(path: Path) -> dict[str, Any]:
    """Return size and checksum of the end of a file; see :func:`record`."""
    return {'Bytes': path.stat().st_size, 'TailCRC32': f'{zlib.crc32(_tail(path)):08x}'}


def _tail(path: Path) -> bytes:
    with path.open('rb') as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        return file.read()


def fault(path: Path, noted: Mapping[str, Any], verify: bool = False) -> str:
    """Compare a file with its record; return a description of the damage, or empty text.

    Parameters
    ----------
    path : Path
    noted : mapping
        See :func:`record`; what it lacks is not compared.
    verify : bool
        Whether to read all of the file; otherwise its size and its end are compared.
    """
    try:
        size = path.stat().st_size
        if size != noted.get('Bytes', size):
            return f'has {size:,} bytes, not {noted["Bytes"]:,}'
        tail = noted.get('TailCRC32')
        if tail is not None and tail != f'{zlib.crc32(_tail(path)):08x}':
            return 'does not end as it was written'
        if verify and sha256(path) != noted.get('SHA256'):
            return 'is not what was written (its checksum differs)'
    except OSError as error:
        return f'cannot be read ({error.strerror or error})'
    return ''


def seal(content: Mapping[str, Any]) -> str:
    """Return the text of a sidecar that contains its own checksum, ``SidecarSHA256``."""
    blank = json.dumps({**content, 'SidecarSHA256': _BLANK}, indent=2, ensure_ascii=False) + '\n'
    before, _, after = blank.rpartition(_BLANK)
    return before + _sha256_of(blank.encode(errors='backslashreplace')) + after


def is_broken_seal(path: Path, content: Mapping[str, Any]) -> bool:
    """Return whether a sidecar does not match its own checksum; see :func:`seal`."""
    digest = str(content.get('SidecarSHA256', ''))
    if not digest:
        # Sidecars of earlier versions have no checksum, and list no outputs.
        return 'Outputs' in content
    before, found, after = path.read_bytes().rpartition(digest.encode())
    return not found or _sha256_of(before + _BLANK.encode() + after) != digest


def _sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unreadable(path: Path, whole: bool = False) -> str:
    """Describe why a file without a record cannot be complete; empty if it may be.

    Parameters
    ----------
    path : Path
        Images, tables, sidecars and pictures; other files may be whatever they are.
    whole : bool
        Whether to decompress all of an image, and not only compare its size with its header's.
    """
    try:
        if path.name.endswith('.nii.gz'):
            return _bad_image(path, whole)
        if path.suffix == '.tsv':
            read_whole_table(path)
        elif path.suffix == '.json':
            json.loads(read_text(path))
        elif path.suffix == '.png' and not _tail(path).endswith(_PNG_END):
            return 'is a picture without its end'
    except TableError as error:
        return str(error).removeprefix(f'{path}: ')
    except ValueError:
        return 'is no text of its kind'
    except (OSError, EOFError, zlib.error) as error:
        return f'cannot be read ({getattr(error, "strerror", None) or error})'
    return ''


def _bad_image(path: Path, whole: bool) -> str:
    """Compare the size at the end of a compressed image with that by its header."""
    import nibabel as nib

    with gzip.open(path) as file:
        start = file.read(_NIFTI_HEADER)
        if whole:
            while file.read(1 << 20):
                pass
    if len(start) < _NIFTI_HEADER:
        return f'is an image of {len(start)} bytes'
    kind = nib.Nifti1Header if start[:4] in (b'\x5c\x01\0\0', b'\0\0\x01\x5c') else None
    if kind is None:
        return ''
    header = kind.from_fileobj(BytesIO(start), check=False)
    values = int(header['dim'][1 : header['dim'][0] + 1].astype('i8').prod())
    expected = int(header['vox_offset']) + values * header.get_data_dtype().itemsize
    found = int.from_bytes(_tail(path)[-4:], 'little')
    return '' if found == expected % 2**32 else 'is an image that was cut'


def read_whole_table(path: Path, columns: Collection[str] = ()) -> list[dict[str, str]]:
    """Read a table that this software wrote.

    Parameters
    ----------
    path : Path
    columns : collection of str
        That it must have.

    Raises
    ------
    TableError
        If it does not end with a line, a row lacks a cell, or a column is missing.
    OSError
    """
    text = read_text(path)
    again = 'cut or altered; run the participant level again'
    if not text.endswith('\n'):
        raise TableError(f'{path}: {"is empty" if not text else "ends within a line"}; {again}')
    header, *lines = text[:-1].split('\n')
    names = header.split('\t')
    if missing := [column for column in columns if column not in names]:
        raise TableError(f'{path}: has no column {", ".join(missing)}; {again}')
    rows = []
    for number, line in enumerate(lines, 2):
        cells = line.split('\t')
        if len(cells) != len(names):
            raise TableError(
                f'{path}: line {number} has {len(cells)} cells, not {len(names)}; {again}'
            )
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def read_known(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Read a table that every run adds to; of a damaged one, the rows that are complete.

    Parameters
    ----------
    path : Path
        An absent file has no rows.
    columns : collection of str
        That every row must have.
    """
    if not path.exists():
        return []
    try:
        return read_whole_table(path, columns)
    except (TableError, EncodingError) as error:
        logger.warning('%s; rows that are whole are kept', str(error).partition(';')[0])
    lines = path.read_bytes().decode(errors='replace').split('\n')
    names, *rows = [line.split('\t') for line in lines[:-1]] or [[]]
    if not {*columns} <= {*names}:
        return []
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]
