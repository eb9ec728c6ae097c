"""Outputs of the images of one session that were segmented together.

Every image has a label map and volumes of its own, named after it as those of any other method;
there is one more label map in the space halfway between the images, and transforms.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthseg_bids.external.methods import SESSION

from ..files import copy_file, sha256, write_json, write_text
from .damage import damage, read_marker
from .image_record import ImageRecord
from .names import anat_folder, bids_uri, derivative_stem, parcels_seg, parse_name
from .records import record, seal
from .save import (
    PARCEL_MODEL_FIELD,
    SHARED_FIELDS,
    TOGETHER_KINDS,
    output_files,
    save_image_outputs,
    single_sidecar,
)

#: Name of the space halfway between the images of a session.
SPACE = 'session'
_RESOLUTION = 'Voxels of 1 mm in the space halfway between the images of the session'


@dataclass
class SessionRecord(ImageRecord):
    """All images of a session, and what became of their segmentation together.

    Attributes
    ----------
    images : list of ImageRecord
        Those that have been segmented on their own.
    """

    images: list[ImageRecord] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the workflow; the letters that Nipype allows."""
        return '_'.join([*_labels(self.entities), 'session']).replace('+', 'plus')


def _labels(entities: Mapping[str, str]) -> list[str]:
    return [f'{key}-{entities[key]}' for key in ('sub', 'ses') if key in entities]


def list_sessions(
    images: Iterable[ImageRecord], statuses: Container[str] = ('done', 'current')
) -> list[SessionRecord]:
    """Return the sessions with two images at least, in order.

    Parameters
    ----------
    images : iterable of ImageRecord
    statuses : container of str
        Statuses of the images that count (default: of those that have been segmented).
    """
    by_session: dict[tuple[str, ...], list[ImageRecord]] = defaultdict(list)
    for image in images:
        if image.status in statuses:
            by_session[tuple(_labels(image.entities))].append(image)
    found = []
    for _, some in sorted(by_session.items()):
        if len(some) > 1:
            some = sorted(some, key=lambda image: image.relative)
            entities = {k: v for k, v in some[0].entities.items() if k in ('sub', 'ses')}
            stem = '_'.join(
                [*_labels(entities), f'space-{SPACE}', f'seg-{SESSION.seg}', 'desc-combined']
            )
            folder = some[0].path.parent
            relative = anat_folder(entities)
            found.append(
                SessionRecord(
                    folder, str(relative), entities, stem=str(relative / stem), images=some
                )
            )
    return found


def session_stem(image: ImageRecord) -> str:
    """Return the relative path of an image's outputs, up to their suffix."""
    name = derivative_stem(image.entities, image.suffix, SESSION.seg)
    return str(anat_folder(image.entities) / name)


def image_statuses(out_dir: Path, sessions: Iterable[SessionRecord]) -> list[ImageRecord]:
    """Return what became of each image of sessions in its segmentation with the others.

    Parameters
    ----------
    out_dir : Path
    sessions : iterable of SessionRecord
        With their status.
    """
    found = []
    for session in sessions:
        for image in session.images:
            written = (out_dir / output_files(session_stem(image), ['dseg'])[1]).exists()
            status = 'skipped' if session.status == 'done' and not written else session.status
            one = replace(image, provenance={})
            found.append(one.settle(status, session.reason, session.crash_file))
    return found


def transform_names(images: Sequence[ImageRecord]) -> tuple[list[str], list[str]]:
    """Name the transforms of images to the space halfway, and of each to each later one."""
    folder = anat_folder(images[0].entities)
    start = '_'.join(_labels(images[0].entities))
    labels = space_labels(images)
    pairs = [(one, other) for n, one in enumerate(labels) for other in labels[n + 1 :]]

    def name(one: str, other: str) -> str:
        return str(folder / f'{start}_from-{one}_to-{other}_mode-image_xfm.txt')

    return [name(one, SPACE) for one in labels], [name(one, other) for one, other in pairs]


def space_labels(images: Sequence[ImageRecord]) -> list[str]:
    """Name the space of each image of a session by its suffix and, if need be, its entities."""
    suffixes = [image.suffix for image in images]
    return [
        image.suffix
        if suffixes.count(image.suffix) == 1
        else image.suffix
        + ''.join(f'{k}{v}' for k, v in image.entities.items() if k not in ('sub', 'ses'))
        for image in images
    ]


def fingerprint(out_dir: Path, session: SessionRecord) -> str:
    """Return a checksum of all that the segmentation of a session depends on."""
    keys = (*SHARED_FIELDS, 'References')
    about = {image.source: single_sidecar(out_dir, image.stem, keys) for image in session.images}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def is_current(
    out_dir: Path, session: SessionRecord, verify: bool = False, parcels_sha256: str = ''
) -> bool:
    """Tell whether the outputs of a session are what another run would write.

    Parameters
    ----------
    out_dir : Path
    session : SessionRecord
    verify : bool
        Whether to read the files, and not only look at their sizes.
    parcels_sha256 : str
        Checksum of the weights that are to name parcels; without it, parcels that there are stay.
    """
    path = out_dir / output_files(session.stem, ['dseg'])[1]
    content = read_marker(path)
    if content.get('SessionSHA256') != fingerprint(out_dir, session):
        return False
    if parcels_sha256 not in ('', content.get(PARCEL_MODEL_FIELD)):
        return False
    used = [image for image in session.images if image.source in content.get('Sources', ())]
    markers = [path, *(out_dir / output_files(session_stem(i), ['dseg'])[1] for i in used)]
    return all(read_marker(one) and not damage(out_dir, one, verify) for one in markers)


def save_session(
    out_dir: Path,
    session: SessionRecord,
    used: Sequence[int],
    files: Mapping[str, Any],
    overlaps: Sequence[float],
    residuals_mm: Sequence[float],
    refused: Sequence[str],
    compared: Sequence[Sequence[str]] = (),
    figures: Sequence[Mapping[str, str]] = (),
    parcels_sha256: str = '',
) -> list[str]:
    """Copy the results of a session to the output dataset.

    Parameters
    ----------
    out_dir : Path
    session : SessionRecord
    used : sequence of int
        Numbers of the images that were combined.
    files : mapping of str to path, or list of paths
        ``common``; for each image used ``dseg``, ``morph``, ``qc``, ``xfm`` and, empty where
        there is none, ``dice``; ``pairs``; with parcels, ``parcels`` and ``common_parcels``.
    overlaps, residuals_mm : sequence of float
        How well each image used fits the others.
    refused : sequence of str
        Why others were not.
    compared : sequence of sequence of str
        For each image used, the references in ``dice``; empty if there are no references.
    figures : sequence of mapping of str to str
        For each image used, its pictures by kind; empty if there are none.
    parcels_sha256 : str
        Checksum of the weights that named the parcels; empty without them.

    Returns
    -------
    list of str
        Absolute paths of all files written, the sidecar of the common label map last.
    """
    marker = out_dir / output_files(session.stem, ['dseg'])[1]
    marker.unlink(missing_ok=True)
    for old in stale_files(out_dir, session):
        old.unlink()
    images = [session.images[number] for number in used]
    shared: dict[str, Any] = {'SessionSHA256': fingerprint(out_dir, session)}
    shared |= {'Refused': [*refused]} if refused else {}
    shared |= {PARCEL_MODEL_FIELD: parcels_sha256} if parcels_sha256 else {}
    kinds = [kind for kind in (*TOGETHER_KINDS, 'parcels') if kind in files]
    written: list[str] = []
    for number, image in enumerate(images):
        others = [other.source for other in images if other is not image]
        fields = {
            **single_sidecar(out_dir, image.stem), **shared, 'Sources': [image.source, *others],
            'Overlap': round(overlaps[number], 4), 'ResidualMM': round(residuals_mm[number], 3),
        }  # fmt: skip
        results = {kind: files[kind][number] for kind in kinds}
        uris = image.reference_uris if compared else {}
        if compared and compared[number]:
            results['dice'] = files['dice'][number]
        written += save_image_outputs(
            out_dir,
            session_stem(image),
            results,
            image.source,
            {uri: sha256(image.references[name]) for name, uri in uris.items()},
            [uris[name] for name in compared[number]] if compared else (),
            fields,
            figures[number] if figures else None,
        )
    names = transform_names(images)
    copies = dict(zip(names[0], files['xfm'], strict=True))
    copies |= dict(zip(names[1], files['pairs'], strict=True))
    for name, source in copies.items():
        copy_file(Path(source), out_dir / name)
        fit = {
            'Overlap': {i.source: round(o, 4) for i, o in zip(images, overlaps, strict=True)},
            'ResidualMM': {
                i.source: round(r, 3) for i, r in zip(images, residuals_mm, strict=True)
            },
        }
        sidecar = out_dir / name.replace('.txt', '.json')
        write_json(sidecar, {'Sources': [image.source for image in images], **fit})
        written += [str(out_dir / name), str(sidecar)]
    return [*written, *_save_common(out_dir, session, images, files, shared, copies)]


def _save_common(
    out_dir: Path,
    session: SessionRecord,
    images: Sequence[ImageRecord],
    files: Mapping[str, Any],
    shared: Mapping[str, Any],
    transforms: Iterable[str],
) -> list[str]:
    """Copy the label maps in the space halfway; return their paths and those of their sidecars.

    The last one is the sidecar of the map without parcels, which records the transforms, too.
    """
    label_map, marker = output_files(session.stem, ['dseg'])
    single = single_sidecar(out_dir, images[0].stem)
    single.pop('InputSHA256', None)
    content = {
        'Sources': [image.source for image in images],
        'SpatialReference': bids_uri('', label_map), 'Resolution': _RESOLUTION, **single, **shared,
    }  # fmt: skip
    copy_file(Path(files['common']), out_dir / label_map)
    written = [label_map]
    if 'common_parcels' in files:
        parcels, sidecar = output_files(session.stem, ['parcels'])
        copy_file(Path(files['common_parcels']), out_dir / parcels)
        write_json(out_dir / sidecar, content)
        written += [parcels, sidecar]
    recorded = {name: record(out_dir / name) for name in (*written, *transforms)}
    write_text(out_dir / marker, seal({**content, 'Outputs': recorded}))
    return [str(out_dir / name) for name in (*written, marker)]


def stale_files(out_dir: Path, session: SessionRecord) -> Iterator[Path]:
    """List what an earlier segmentation of a session has left."""
    folder = (out_dir / session.stem).parent
    segmentations = (f'*_seg-{seg}_*' for seg in (SESSION.seg, parcels_seg(SESSION.seg)))
    for pattern in (*segmentations, '*_from-*_to-*_mode-image_xfm.*'):
        for path in sorted(folder.glob(pattern)):
            if '_agreement.' not in path.name and '_to-midspace_' not in path.name:
                yield path
    # Those of all sessions of a participant lie in one folder.
    figures = out_dir / f'sub-{session.participant}' / 'figures'
    for path in sorted(figures.glob(f'*_seg-{SESSION.seg}_*')):
        parsed = parse_name(path.name)
        if parsed and _labels(parsed[0]) == _labels(session.entities):
            yield path
