"""Which images of a dataset are segmented, and why the others are not.

pybids finds the images and answers the filter file (:mod:`synthseg_bids.bids.layout`); why one of
them is left out is decided here.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from math import inf, prod
from pathlib import Path

from ..images.ct import CT_SUFFIXES
from .errors import NotBidsError, QueryError
from .filters import Filters, mismatch
from .ignore import is_litter, read_bidsignore
from .image_record import ImageRecord
from .layout import Index, index_images
from .names import IMAGE_EXTENSIONS, parse_name

#: Suffixes segmented by default.
DEFAULT_SUFFIXES = (
    'T1w', 'T2w', 'PDw', 'FLAIR', 'T2starw', 'UNIT1', 'inplaneT1', 'inplaneT2', *CT_SUFFIXES
)  # fmt: skip
#: Why files are left out that are no part of the dataset, and of which nobody needs to hear.
LITTER_REASON = 'left behind by a file system or an editor'


def list_participants(bids_dir: Path) -> list[str]:
    """List the labels of the subject folders, without ``sub-``.

    Raises
    ------
    NotBidsError
        If the folder cannot be read or holds no subject folder.
    """
    try:
        labels = _labels(bids_dir, 'sub')
    except OSError as error:
        raise NotBidsError(
            f'{bids_dir}: cannot be read ({error.strerror}); give the root of a BIDS dataset'
        ) from None
    if not labels:
        raise NotBidsError(f'{bids_dir}: no sub-* folder here; give the root of a BIDS dataset')
    return labels


def select_participants(
    bids_dir: Path, wanted: Iterable[str] | None = None, excluded: Iterable[str] = ()
) -> list[str]:
    """Return the wanted participants, or all of them.

    Parameters
    ----------
    bids_dir : Path
    wanted, excluded : iterable of str, optional
        Labels, with or without ``sub-``.

    Returns
    -------
    list of str
        Sorted labels without ``sub-``.

    Raises
    ------
    QueryError
        If one does not exist; the message lists those that do.
    NotBidsError
        If the folder holds no subject.
    """
    existing = list_participants(bids_dir)
    chosen, dropped = (
        _select('participant', existing, {label.removeprefix('sub-') for label in labels})
        for labels in (existing if wanted is None else wanted, excluded)
    )
    return [label for label in chosen if label not in dropped]


def find_images(
    bids_dir: Path,
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    suffixes: Sequence[str] = DEFAULT_SUFFIXES,
    filters: Filters | None = None,
    database: Path | None = None,
    wipe: bool = False,
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Find the images to segment.

    Parameters
    ----------
    bids_dir : Path
        Root of a raw BIDS dataset.
    participants, sessions : iterable of str, optional
        Labels to restrict to, with or without ``sub-`` or ``ses-``.
    suffixes : sequence of str
        Suffixes to segment.
    filters : mapping, optional
        From :func:`synthseg_bids.bids.filters.read_filters`.
    database, wipe : Path and bool, optional
        See :func:`synthseg_bids.bids.layout.index_images`.

    Returns
    -------
    images : list of ImageRecord
        Three-dimensional magnitude images, sorted by path.
    skipped : list of ImageRecord
        Every other image in the folders looked into.

    Raises
    ------
    QueryError
        If a participant or session does not exist; the message lists those that do.
    NotBidsError
        If the folder holds no subject.
    """
    chosen = select_participants(bids_dir, participants)
    images: list[ImageRecord] = []
    skipped: list[ImageRecord] = []
    found: dict[str, list[str]] = {}
    for label in chosen:
        try:
            found[label] = _labels(bids_dir / f'sub-{label}', 'ses')
        except OSError as error:
            folder = f'sub-{label}'
            skipped.append(_close(ImageRecord(bids_dir / folder, folder), error))
    wanted = None
    if sessions is not None:
        every = sorted({session for labels in found.values() for session in labels})
        wanted = _select('session', every, {label.removeprefix('ses-') for label in sessions})
    ignored = read_bidsignore(bids_dir)
    everybody = participants is None
    index = index_images(bids_dir, None if everybody else found, filters, database, wipe)
    for relative in _candidates(bids_dir, index, found, wanted, skipped):
        image = ImageRecord(bids_dir / relative, relative)
        if is_litter(image.path.name):
            image.settle('skipped', LITTER_REASON)
        elif ignored(relative):
            image.settle('skipped', 'named in .bidsignore')
        else:
            try:
                _judge(image, suffixes, filters or {}, index)
            except OSError as error:
                _close(image, error)
        (images if image.status == 'pending' else skipped).append(image)
    return images, skipped


def keep_first_echoes(
    images: Iterable[ImageRecord],
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Leave out all echoes of an image but the first that there is.

    Parameters
    ----------
    images : iterable of ImageRecord

    Returns
    -------
    images, skipped : list of ImageRecord
    """
    first: dict[tuple[object, ...], ImageRecord] = {}
    others = []
    for image in images:
        name = {key: value for key, value in image.entities.items() if key != 'echo'}
        key = (*name.items(), image.suffix)
        kept = first.setdefault(key, image)
        if kept is not image:
            first[key], other = sorted((kept, image), key=_echo)
            others.append(other.settle('skipped', 'not the first echo'))
    return list(first.values()), others


def _echo(image: ImageRecord) -> int:
    echo = image.entities.get('echo', '')
    return int(echo) if echo.isdigit() else 0


def _select(what: str, existing: list[str], wanted: set[str]) -> list[str]:
    missing = sorted(wanted - {*existing})
    if missing:
        raise QueryError(
            f'{what} {", ".join(missing)} not found; there are: {", ".join(existing) or "none"}'
        )
    return sorted(wanted)


def _labels(folder: Path, key: str) -> list[str]:
    """List the labels of the ``key-*`` folders in a folder."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name[len(key) + 1 :] for name in names if name.startswith(f'{key}-'))


def _close(image: ImageRecord, error: OSError) -> ImageRecord:
    """Record that a file or folder cannot be read, which must not stop the others."""
    advice = 'change its permissions' if isinstance(error, PermissionError) else 'check the disk'
    return image.settle('failed', f'cannot be read ({error.strerror}); {advice}')


def _candidates(
    bids_dir: Path,
    index: Index,
    sessions: dict[str, list[str]],
    wanted: list[str] | None,
    skipped: list[ImageRecord],
) -> Iterator[str]:
    """Yield every NIfTI file in the ``anat`` folders, and litter, in a stable order.

    The folders are listed beside the index, which has neither what pybids cannot read or hold nor,
    if it comes from a database, what is newer.
    """
    indexed: dict[str, set[str]] = {}
    for relative in index.files:
        parent, _, name = relative.rpartition('/')
        indexed.setdefault(parent, set()).add(name)
    for participant, labels in sessions.items():
        subject = bids_dir / f'sub-{participant}'
        folders = [subject] if wanted is None else []
        folders += [
            subject / f'ses-{label}' for label in labels if wanted is None or label in wanted
        ]
        for folder in folders:
            anat = (folder / 'anat').relative_to(bids_dir).as_posix()
            try:
                names = {*os.listdir(bids_dir / anat)}
            except (FileNotFoundError, NotADirectoryError):
                names = set()
            except OSError as error:
                skipped.append(_close(ImageRecord(bids_dir / anat, anat), error))
                continue
            images = {name for name in names if name.endswith(IMAGE_EXTENSIONS)}
            images |= {name for name in names if is_litter(name)}
            yield from (f'{anat}/{name}' for name in sorted(images | indexed.get(anat, set())))


def _judge(
    image: ImageRecord, suffixes: Sequence[str], filters: Filters, index: Index
) -> ImageRecord:
    """Add what name and header tell of a file; settle it if it is not segmented."""
    path, relative = image.path, image.relative
    parsed = parse_name(path.name)
    if parsed is None or path.name.startswith('.'):
        return image.settle('skipped', 'not a BIDS file name; rename it', surprising=True)
    entities, suffix, extension = parsed
    image.entities, image.suffix = entities, suffix
    folders = relative.split('/')[:-2]
    if folders != [f'{key}-{entities[key]}' for key in ('sub', 'ses') if key in entities]:
        reason = 'its name and its folder disagree on subject or session'
        return image.settle('skipped', reason, surprising=True)
    if suffix not in suffixes:
        return image.settle('skipped', f'suffix {suffix} is not selected')
    indexed = relative in index.files
    difference = mismatch(filters, entities, suffix, extension)
    if indexed and suffix in index.selected:
        passes = relative in index.selected[suffix]
        difference = None if passes else difference or 'pybids does not select it'
    if difference:
        return image.settle('skipped', f'left out by the filter file: {difference}')
    if entities.get('part', 'mag') != 'mag':
        return image.settle('skipped', f'part-{entities["part"]} is not a magnitude image')
    if extension == '.nii' and path.with_suffix('.nii.gz').exists():
        return image.settle('skipped', 'the same image exists as .nii.gz')
    if index.stored and indexed != os.path.lexists(path):
        what = 'no longer in the dataset' if indexed else 'not in the database'
        return image.settle('skipped', f'{what}; use --bids-database-wipe', surprising=True)
    if path.is_dir():
        return image.settle('failed', 'is a folder; give an image file')
    if not path.exists():
        reason = 'not downloaded; run "datalad get" on it or repair the link'
        return image.settle('failed', reason)
    shape, spacing = _read_header(path)
    n_volumes = prod(shape[3:])
    if n_volumes > 1:
        reason = f'4D with {n_volumes} volumes; extract one of them or their mean'
        return image.settle('skipped', reason, surprising=True)
    if len(shape) >= 3 and all(0 < mm < inf for mm in spacing):
        image.grid = (shape[:3], spacing)
    return image


def _read_header(path: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Read sides and spacing from the first bytes of a NIfTI file; empty if they make no sense.

    Damage is a matter for whoever reads the whole file.

    Raises
    ------
    OSError
        If the system does not let us read it.
    """
    try:
        with gzip.open(path) if path.name.endswith('.gz') else path.open('rb') as file:
            header = file.read(168)
        order = '<' if header[0] in (92, 28) else '>'
        size = struct.unpack(order + 'i', header[:4])[0]
        fields = {348: ((40, '8h'), (76, '8f')), 540: ((16, '8q'), (104, '8d'))}[size]
        (n_dims, *shape), (_, *spacing) = (
            struct.unpack_from(order + code, header, where) for where, code in fields
        )
    except OSError as error:
        if error.errno is not None:
            raise
        return (), ()  # not compressed
    except (EOFError, zlib.error, struct.error, KeyError, IndexError):
        return (), ()
    sides = tuple(max(length, 1) for length in shape[:n_dims])
    return sides, tuple(abs(mm) for mm in spacing[:3])
