"""Which images of a dataset are segmented, and why the others are not.

The folders are scanned directly: only ``sub-*/[ses-*/]anat`` of the requested subjects is read,
so that thousands of subjects take seconds, and no sidecar is needed.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .names import IMAGE_EXTENSIONS, parse_name

#: Suffixes segmented by default.
DEFAULT_SUFFIXES = (
    'T1w', 'T2w', 'PDw', 'FLAIR', 'T2starw', 'UNIT1', 'inplaneT1', 'inplaneT2'
)  # fmt: skip

NOT_DOWNLOADED = 'not downloaded (datalad get)'


class QueryError(ValueError):
    """What was asked for is not in the dataset."""


class NotBidsError(ValueError):
    """The folder is not a BIDS dataset."""


@dataclass(frozen=True)
class ImageFile:
    """One image of the dataset.

    Attributes
    ----------
    path : Path
    relative : str
        Path relative to the dataset, with forward slashes.
    entities : dict of str to str
        In the order of the file name.
    suffix : str
        ``T1w``, ``FLAIR``, ...
    """

    path: Path
    relative: str
    entities: dict[str, str]
    suffix: str


@dataclass(frozen=True)
class Skipped:
    """An image that is not segmented.

    Attributes
    ----------
    relative : str
        Path relative to the dataset, with forward slashes.
    reason : str
    failed : bool
        Whether it should have been segmented.
    """

    relative: str
    reason: str
    failed: bool = False


def list_participants(bids_dir: Path) -> list[str]:
    """List the labels of the subject folders, without ``sub-``.

    Raises
    ------
    NotBidsError
        If the folder cannot be read or holds no subject folder.
    """
    labels = _labels(bids_dir, 'sub')
    if not labels:
        raise NotBidsError(f'{bids_dir}: no sub-* folder here; give the root of a BIDS dataset')
    return labels


def select_participants(bids_dir: Path, wanted: Iterable[str] | None) -> list[str]:
    """Return the wanted participants, or all of them.

    Parameters
    ----------
    bids_dir : Path
    wanted : iterable of str, optional
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
    if wanted is None:
        return existing
    return _select('participant', existing, {label.removeprefix('sub-') for label in wanted})


def find_images(
    bids_dir: Path,
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    suffixes: Sequence[str] = DEFAULT_SUFFIXES,
) -> tuple[list[ImageFile], list[Skipped]]:
    """Find the images to segment.

    Parameters
    ----------
    bids_dir : Path
        Root of a raw BIDS dataset.
    participants, sessions : iterable of str, optional
        Labels to restrict to, with or without ``sub-`` or ``ses-``.
    suffixes : sequence of str
        Suffixes to segment.

    Returns
    -------
    images : list of ImageFile
        Three-dimensional magnitude images, sorted by path.
    skipped : list of Skipped
        Every other image in the folders looked into.

    Raises
    ------
    QueryError
        If a participant or session does not exist; the message lists those that do.
    NotBidsError
        If the folder holds no subject.
    """
    chosen = select_participants(bids_dir, participants)
    found = {label: _labels(bids_dir / f'sub-{label}', 'ses') for label in chosen}
    wanted = None
    if sessions is not None:
        every = sorted({session for labels in found.values() for session in labels})
        wanted = _select('session', every, {label.removeprefix('ses-') for label in sessions})
    images: list[ImageFile] = []
    skipped: list[Skipped] = []
    for path in _candidates(bids_dir, found, wanted):
        verdict = _judge(path, path.relative_to(bids_dir).as_posix(), suffixes)
        if isinstance(verdict, Skipped):
            skipped.append(verdict)
        else:
            images.append(verdict)
    return images, skipped


def _select(what: str, existing: list[str], wanted: set[str]) -> list[str]:
    missing = sorted(wanted - {*existing})
    if missing:
        raise QueryError(
            f'{what} {", ".join(missing)} not found; there are: {", ".join(existing) or "none"}'
        )
    return sorted(wanted)


def _labels(folder: Path, key: str) -> list[str]:
    """List the labels of the ``key-*`` folders in a folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise NotBidsError(f'{folder}: cannot be read ({error.strerror})') from None
    return sorted(name[len(key) + 1 :] for name in names if name.startswith(f'{key}-'))


def _candidates(
    bids_dir: Path, sessions: dict[str, list[str]], wanted: list[str] | None
) -> Iterator[Path]:
    """Yield every NIfTI file in the ``anat`` folders, in a stable order."""
    for participant, labels in sessions.items():
        subject = bids_dir / f'sub-{participant}'
        folders = [subject] if wanted is None else []
        folders += [
            subject / f'ses-{label}' for label in labels if wanted is None or label in wanted
        ]
        for folder in folders:
            anat = folder / 'anat'
            if anat.is_dir():
                names = sorted(os.listdir(anat))
                yield from (anat / name for name in names if name.endswith(IMAGE_EXTENSIONS))


def _judge(path: Path, relative: str, suffixes: Sequence[str]) -> ImageFile | Skipped:
    """Decide whether a file is segmented."""
    parsed = parse_name(path.name)
    if parsed is None or path.name.startswith('.'):
        return Skipped(relative, 'not a BIDS file name')
    entities, suffix, extension = parsed
    folders = relative.split('/')[:-2]
    if folders != [f'{key}-{entities[key]}' for key in ('sub', 'ses') if key in entities]:
        return Skipped(relative, 'its name and its folder disagree on subject or session')
    if suffix not in suffixes:
        return Skipped(relative, f'suffix {suffix} is not selected')
    if entities.get('part', 'mag') != 'mag':
        return Skipped(relative, f'part-{entities["part"]} is not a magnitude image')
    if extension == '.nii' and path.with_suffix('.nii.gz').exists():
        return Skipped(relative, 'the same image exists as .nii.gz')
    if not path.exists():
        return Skipped(relative, NOT_DOWNLOADED, failed=True)
    n_volumes = _count_volumes(path)
    if n_volumes > 1:
        return Skipped(relative, f'4D image with {n_volumes} volumes; only 3D is segmented')
    return ImageFile(path, relative, entities, suffix)


def _count_volumes(path: Path) -> int:
    """Count the volumes from the first bytes of a NIfTI file; 1 if they make no sense.

    A file that cannot be read is a matter for whoever reads the whole of it.
    """
    try:
        with gzip.open(path) if path.name.endswith('.gz') else path.open('rb') as file:
            header = file.read(80)
        order = '<' if header[0] in (92, 28) else '>'
        size = struct.unpack(order + 'i', header[:4])[0]
        where, code = {348: (40, '8h'), 540: (16, '8q')}[size]
        n_dims, *shape = struct.unpack_from(order + code, header, where)
    except (OSError, EOFError, struct.error, KeyError, IndexError):
        return 1
    volumes = 1
    for length in shape[3:n_dims]:
        volumes *= max(length, 1)
    return volumes
