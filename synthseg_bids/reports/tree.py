"""Data of the reports, read from the output dataset alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from synthseg_bids.bids.damage import checked_rows as read_checked
from synthseg_bids.bids.names import anat_folder, derivative_stem, parse_name, uri_path
from synthseg_bids.bids.save import output_files
from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.external.methods import OURS, title_of
from synthseg_bids.files import read_description, read_table
from synthseg_bids.files import read_text as read_file
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.parcels import parcel_labels

#: Largest number of bytes of a text file that are shown.
_MOST_TEXT = 100_000

#: Columns of the group tables that identify an image.
IDENTITY = frozenset(
    {
        'participant_id',
        'session_id',
        'source',
        'method',
        'contrast',
        'acq_id',
        'run_id',
        'reference',
    }
)

#: Of the table of volumes, which has many more columns.
_VOLUMES = IDENTITY.union(
    (label.name for label in (*segmentation_labels(True), *parcel_labels())), [TOTAL_NAME]
)

Row = dict[str, str]
Key = tuple[str, str]


@dataclass(frozen=True)
class Image:
    """One image of the status table, or with volumes.

    Attributes
    ----------
    source : str
        BIDS URI.
    status : dict of str to str
        Its row of ``group_status.tsv``; empty if it has none.
    method : str
        What segmented it; several methods may have.
    """

    source: str
    status: Row = field(default_factory=dict)
    method: str = OURS

    @property
    def key(self) -> Key:
        """Return its source and method; see :func:`key_of`."""
        return self.source, self.method

    @property
    def state(self) -> str:
        """Return its status; see ``group_status.tsv``."""
        return self.status.get('status', 'done')

    @property
    def series(self) -> str:
        """Return the name of the images it is compared with: same contrast and method."""
        return series_name(self.contrast, self.method)

    @cached_property
    def file_name(self) -> str:
        """Name of the file, without folders."""
        return PurePosixPath(self.relative).name

    @cached_property
    def participant(self) -> str:
        """The participant's folder, e.g. ``sub-01``."""
        return self.relative.partition('/')[0]

    @cached_property
    def session(self) -> str:
        """``ses-...``; empty if there is none."""
        return f'ses-{self._entities["ses"]}' if 'ses' in self._entities else ''

    @cached_property
    def contrast(self) -> str:
        """The suffix; empty if the name is not BIDS."""
        return self._parsed[1] if self._parsed else ''

    @cached_property
    def title(self) -> str:
        """Return what distinguishes it from the participant's other images."""
        if not self._parsed:
            return self.file_name
        others = [f'{k}-{v}' for k, v in self._entities.items() if k not in ('sub', 'ses')]
        return ' · '.join(part for part in (self.session, self.series, *others) if part)

    @cached_property
    def anchor(self) -> str:
        """Return its anchor in the participant's report."""
        method = '' if self.method == OURS else f'_seg-{self.method}'
        return quote(self.file_name.partition('.')[0] + method, safe='')

    @cached_property
    def stem(self) -> str:
        """Relative path of its outputs, up to their suffix; empty if it can have none."""
        if not self._parsed:
            return ''
        name = derivative_stem(self._entities, self.contrast, self.method)
        return str(anat_folder(self._entities) / name)

    @cached_property
    def relative(self) -> str:
        """Path relative to the raw dataset."""
        return uri_path(self.source)

    @cached_property
    def _parsed(self) -> tuple[dict[str, str], str, str] | None:
        return parse_name(self.file_name)

    @property
    def _entities(self) -> dict[str, str]:
        return self._parsed[0] if self._parsed else {}


def key_of(row: Row) -> Key:
    """Return image and method of a row of a group table."""
    # Tables of earlier versions have no column of methods.
    return row['source'], row.get('method') or OURS


def series_name(contrast: str, method: str) -> str:
    """Name images of a contrast that one method segmented."""
    return contrast if method == OURS else f'{contrast} by {title_of(method)}'


def count_images(found: Iterable[tuple[str, str]], order: Sequence[str]) -> Counter[str]:
    """Count images by their state, each once, however many methods have segmented it.

    Parameters
    ----------
    found : iterable of (str, str)
        BIDS URI of the image, and its state by one method; states that are not in `order` do not
        count.
    order : sequence of str
        States from the weakest to the strongest; the strongest of an image counts.

    Examples
    --------
    >>> count_images([('T1w', 'pass'), ('T1w', 'fail'), ('T2w', 'pass')], ['pass', 'fail'])
    Counter({'fail': 1, 'pass': 1})
    """
    states: dict[str, str] = {}
    for source, state in found:
        if state in order:
            states[source] = max(states.get(source, state), state, key=order.index)
    return Counter(states.values())


def session_page(image: Image) -> str:
    """Return the file name of the report of an image's session."""
    return f'{image.participant}_{image.session}.html'


def read_images(out_dir: Path) -> dict[str, list[Image]]:
    """Return every image of the status table or with volumes, in order, by participant."""
    return _list_images(group_table(out_dir, 'status'), group_table(out_dir, 'morph'))


@lru_cache(maxsize=1)
def _list_images(status: GroupTable, morph: GroupTable) -> dict[str, list[Image]]:
    rows = {key_of(row): row for row in status.rows}
    images = [
        Image(source, rows.get((source, method), {}), method)
        for source, method in {*rows, *morph.by_image}
    ]
    found: dict[str, list[Image]] = {}
    for image in sorted(images, key=lambda image: (image.participant, *image.key)):
        found.setdefault(image.participant, []).append(image)
    return found


class GroupTable:
    """A table of the whole group.

    Attributes
    ----------
    rows : tuple of dict of str to str
        Cells that are n/a are empty.
    """

    def __init__(self, path: Path, columns: Container[str] | None = None) -> None:
        self.rows = tuple(read_rows(path, columns))

    @cached_property
    def by_image(self) -> dict[Key, list[Row]]:
        """Its rows by image; see :func:`key_of`."""
        found: dict[Key, list[Row]] = {}
        for row in self.rows:
            found.setdefault(key_of(row), []).append(row)
        return found

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """Its finite numbers, a row per image; see :func:`key_of`."""
        index = pd.MultiIndex.from_tuples(map(key_of, self.rows), names=['source', 'method'])
        table = pd.DataFrame(self.rows, index).drop(columns=[*IDENTITY], errors='ignore')
        finite = table.apply(pd.to_numeric, errors='coerce').replace([np.inf, -np.inf], np.nan)
        return finite.astype(float)

    @cached_property
    def volumes_ml(self) -> dict[str, dict[str, np.ndarray]]:
        """Known volumes by series, then by structure, sorted; of the table of volumes."""
        series = np.array([series_name(row['contrast'], key_of(row)[1]) for row in self.rows])
        return {
            str(name): {str(column): np.sort(ml.dropna()) for column, ml in group.items()}
            for name, group in (self.numbers / 1000).groupby(series)
        }


def group_table(out_dir: Path, kind: str) -> GroupTable:
    """Read ``group_<kind>.tsv``, once for the reports of all participants."""
    path = out_dir / f'group_{kind}.tsv'
    found = path.stat() if path.exists() else None
    return _read_once(path, found and (found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=8)
def _read_once(path: Path, _state: tuple[int, int] | None) -> GroupTable:
    return GroupTable(path, _VOLUMES if path.name == 'group_morph.tsv' else None)


def read_rows(path: Path, columns: Container[str] | None = None) -> list[Row]:
    """Read a table; cells that are n/a are empty, and a missing file has no rows."""
    rows = read_table(path, columns)
    return [{k: '' if v == 'n/a' else v for k, v in row.items()} for row in rows]


def checked_rows(path: Path) -> list[Row]:
    """Read a table of one image or session; see :func:`read_rows`. A damaged one has no rows."""
    rows = read_checked(path)
    return [{k: '' if v == 'n/a' else v for k, v in row.items()} for row in rows]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent one is empty, a broken one too, with a warning."""
    return read_description(path)


def label_map_sidecar(out_dir: Path, image: Image) -> dict[str, Any]:
    """Read how an image's label map was made; empty if there is none."""
    kinds = ('dseg', 'dseg1mm') if image.stem else ()
    paths = (out_dir / output_files(image.stem, [kind])[1] for kind in kinds)
    return next((found for path in paths if (found := read_json(path))), {})


def inside(root: Path, relative: str) -> Path | None:
    """Return a file of a dataset; None where there is none that may be read out.

    Parameters
    ----------
    root : Path
    relative : str
        Path with forward slashes. Hidden files and folders, and paths that lead out of `root` by
        ``..``, by a leading slash or by a link, are as good as absent.

    Returns
    -------
    Path or None
        A regular file, links resolved.
    """
    if any(not part or part.startswith('.') or '\0' in part for part in relative.split('/')):
        return None
    try:
        path = (root / relative).resolve(strict=True)
    except (OSError, RuntimeError):  # a circle of links
        return None
    return path if path.is_relative_to(root.resolve()) and path.is_file() else None


def read_text(out_dir: Path, relative: str) -> str:
    """Read the end of a text file of the dataset; empty if it is missing or outside."""
    path = inside(out_dir, relative)
    if path is None:
        return ''
    text = path.read_text(encoding='utf-8', errors='replace')
    return text if len(text) <= _MOST_TEXT else f'[...]\n{text[-_MOST_TEXT:]}'


def run_settings(out_dir: Path, run_uuid: str = '') -> tuple[str, str]:
    """Return the name of a run's folder, by default the last one's, and its settings.

    Both are empty if there is none.
    """
    paths = sorted(out_dir.glob(f'logs/{run_uuid or "*"}/config.toml'))
    return (paths[-1].parent.name, read_file(paths[-1])) if paths else ('', '')


def number(text: str | None) -> float | None:
    """Return the number in a cell; None if it holds none, or one that is not finite.

    Examples
    --------
    >>> number('1.5'), number(''), number('nan')
    (1.5, None, None)
    """
    try:
        value = float(text or 'nan')
    except ValueError:
        return None
    return value if isfinite(value) else None
