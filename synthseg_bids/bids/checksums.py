"""Checksums of images and references, saved so that a second run need not read them all."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from synthseg_bids.files import sha256

from ..files import write_table
from .records import read_known

_COLUMNS = ('uri', 'bytes', 'mtime_ns', 'sha256')


class Checksums:
    """Checksums by BIDS URI, kept in ``logs/checksums.tsv`` of the output dataset.

    A file of another size or modification time is read anew.

    Parameters
    ----------
    out_dir : Path
    """

    def __init__(self, out_dir: Path) -> None:
        self._path = out_dir / 'logs' / 'checksums.tsv'
        self._known = {row['uri']: row for row in read_known(self._path, _COLUMNS)}
        self._new: dict[str, dict[str, str]] = {}

    def of(self, uri: str, path: Path) -> str:
        """Return the checksum of a file; empty if it cannot be read."""
        row = self._row(uri, path)
        if row is None:
            return ''
        known = self._known.get(uri)
        if known is None or {**known, 'sha256': ''} != row:
            try:
                row['sha256'] = sha256(path)
            except OSError:
                return ''
            known = self._known[uri] = self._new[uri] = row
        return known['sha256']

    def note(self, uri: str, path: Path, checksum: str) -> None:
        """Store a checksum that was just computed elsewhere."""
        row = self._row(uri, path)
        if row is not None:
            self._known[uri] = self._new[uri] = {**row, 'sha256': checksum}

    def save(self) -> None:
        """Add new checksums to the file, which other processes may write as well."""
        if not self._new:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_name('.checksums.lock'), timeout=60):
            rows = {row['uri']: row for row in read_known(self._path, _COLUMNS)} | self._new
            write_table(self._path, _COLUMNS, [rows[uri] for uri in sorted(rows)])
        self._new = {}

    def _row(self, uri: str, path: Path) -> dict[str, str] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return dict(
            zip(_COLUMNS, (uri, str(found.st_size), str(found.st_mtime_ns), ''), strict=True)
        )
