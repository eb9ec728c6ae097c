"""Outputs of the visits of one participant that were segmented together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from synthseg_bids.external.methods import LONGITUDINAL
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.overlap import TOTAL_NAME

from ..files import copy_file, write_json, write_table
from .damage import checked_rows, damage, read_marker
from .image_record import ImageRecord
from .names import anat_folder, derivative_stem, parcels_seg, parse_name
from .records import record
from .save import (
    TOGETHER_KINDS,
    figure_files,
    output_files,
    save_image_outputs,
    single_sidecar,
)
from .visits import years_between

CHANGE_COLUMNS: dict[str, dict[str, Any]] = {
    'index': {'Description': 'Value in the label map.'},
    'name': {'Description': 'Name of the structure.'},
    'change': {
        'Description': 'Slope of a straight line through the soft volumes of the visits, divided '
        'by their mean; by TimeUnit, the year or, where times are not known, the visit.',
        'Units': 'percent',
    },
    'mean_volume_mm3': {'Description': 'Mean of the soft volumes of all visits.', 'Units': 'mm^3'},
    'n_visits': {'Description': 'Number of visits.'},
}


def longitudinal_stem(image: ImageRecord) -> str:
    """Return the relative path of an image's outputs, up to their suffix."""
    name = derivative_stem(image.entities, image.suffix, LONGITUDINAL.seg)
    return str(anat_folder(image.entities) / name)


def transform_file(stem: str) -> str:
    """Name the transform of an image to the space halfway between all visits.

    Examples
    --------
    >>> transform_file('sub-1/ses-a/anat/sub-1_ses-a_run-1_seg-synthseglong_desc-T1w')
    'sub-1/ses-a/anat/sub-1_ses-a_run-1_from-T1w_to-midspace_mode-image_xfm.txt'
    """
    start, _, contrast = stem.rpartition('_desc-')
    return f'{start.partition("_seg-")[0]}_from-{contrast}_to-midspace_mode-image_xfm.txt'


def _needed_files(stem: str) -> list[str]:
    """Name the files of an image without which its outputs are not complete."""
    return [*output_files(stem, TOGETHER_KINDS), transform_file(stem)]


def is_current(
    out_dir: Path,
    images: Iterable[ImageRecord],
    expected: Mapping[str, Any],
    verify: bool = False,
) -> bool:
    """Tell whether the longitudinal outputs of images are what another run would write.

    Parameters
    ----------
    out_dir : Path
    images : iterable of ImageRecord
        All images of a participant.
    expected : mapping
        Fields that all their sidecars would have.
    verify : bool
        Whether to read the files, and not only look at their sizes.
    """
    for image in images:
        stem = longitudinal_stem(image)
        path = out_dir / output_files(stem, ['dseg'])[1]
        content = read_marker(path)
        shared = single_sidecar(out_dir, image.stem)
        if any(content.get(key) != value for key, value in {**shared, **expected}.items()):
            return False
        there = all((out_dir / name).is_file() for name in _needed_files(stem))
        if not there or damage(out_dir, path, verify):
            return False
    return True


def save_visit(
    out_dir: str | Path,
    stem: str,
    files: Mapping[str, str | Path],
    sources: Sequence[str],
    provenance: Mapping[str, Any],
    figures: Mapping[str, str] | None = None,
) -> list[str]:
    """Copy the results of one image to the output dataset.

    Parameters
    ----------
    out_dir : path-like
    stem : str
        See :func:`longitudinal_stem`.
    files : mapping of str to path-like
        ``dseg``, ``morph``, ``qc``, ``xfm`` and, if there are any, ``parcels``.
    sources : sequence of str
        BIDS URIs of all images that it was made from, the image itself first.
    provenance : mapping
        Fields for the label map's sidecar.
    figures : mapping of str to str, optional
        Its pictures by kind.

    Returns
    -------
    list of str
        Absolute paths of all files written, the sidecar of the label map last.
    """
    transform = Path(out_dir) / transform_file(stem)
    copy_file(Path(files['xfm']), transform)
    results = {kind: path for kind, path in files.items() if kind != 'xfm'}
    fields = {**provenance, 'Sources': list(sources)}
    return [
        str(transform),
        *save_image_outputs(out_dir, stem, results, sources[0], {}, (), fields, figures),
    ]


def remove_stale(out_dir: Path, participant: str, stems: Collection[str]) -> None:
    """Remove the outputs of images that are not among the visits any more.

    Parameters
    ----------
    out_dir : Path
    participant : str
        Without ``sub-``.
    stems : collection of str
        Those of the visits.
    """
    kept = {
        name
        for stem in stems
        for name in (
            *_needed_files(stem),
            *output_files(stem, ['parcels']),
            *figure_files(stem).values(),
        )
    }
    segmentations = (f'*_seg-{seg}_*' for seg in (LONGITUDINAL.seg, parcels_seg(LONGITUDINAL.seg)))
    patterns = (*segmentations, '*_to-midspace_*')
    for folder in ('anat', 'ses-*/anat', 'figures'):
        for pattern in patterns:
            for path in (out_dir / f'sub-{participant}').glob(f'{folder}/{pattern}'):
                name = path.relative_to(out_dir).as_posix()
                if name not in kept and not name.endswith(('_agreement.tsv', '_agreement.json')):
                    path.unlink()


def change_file(participant: str) -> str:
    """Name the table of a participant's changes; relative to the output dataset."""
    label = participant.removeprefix('sub-')
    folder = PurePosixPath(f'sub-{label}', 'anat')
    return str(folder / f'sub-{label}_seg-{LONGITUDINAL.seg}_change.tsv')


def write_change(out_dir: Path, participant: str, raw: Path) -> Path | None:
    """Write by how much the structures of a participant change.

    Where several images show a visit their volumes are averaged: those that all visits have in
    common, or else all.

    Parameters
    ----------
    out_dir : Path
        The output dataset, with the longitudinal volumes.
    participant : str
        With or without ``sub-``.
    raw : Path
        The raw dataset, where the times of visits are.

    Returns
    -------
    Path or None
        The table; None, and none is left, if there are not two visits.
    """
    name = f'sub-{participant.removeprefix("sub-")}'
    table = out_dir / change_file(name)
    visits = read_visits(out_dir, name)
    if len(visits) < 2:
        table.unlink(missing_ok=True)
        table.with_suffix('.json').unlink(missing_ok=True)
        return None
    years = years_between(raw, name, list(visits))
    times = years or {session: float(number) for number, session in enumerate(visits)}
    rows = change_rows([times[s] for s in visits], [volumes for _, volumes in visits.values()])
    write_table(table, CHANGE_COLUMNS, rows)
    described = [
        {'Session': session, 'Time': round(times[session], 4), 'Sources': sources}
        for session, (sources, _) in visits.items()
    ]
    unit = 'year' if years else 'visit'
    sources = sorted({uri for sources, _ in visits.values() for uri in sources})
    content = {'Sources': sources, 'TimeUnit': unit, 'Visits': described, **CHANGE_COLUMNS}
    write_json(table.with_suffix('.json'), {**content, 'Table': record(table)})
    return table


def read_visits(
    out_dir: Path, participant: str, seg: str = LONGITUDINAL.seg
) -> dict[str, tuple[list[str], dict[str, float]]]:
    """Read the volumes of every visit of a participant.

    Parameters
    ----------
    out_dir : Path
    participant : str
        With ``sub-``.
    seg : str
        Which segmentations.

    Returns
    -------
    dict of str to (list of str, dict of str to float)
        By session, in the order of labels: the BIDS URIs of its images, and the mean over them of
        the soft volume in mm^3 of each structure.
    """
    found: dict[str, dict[Any, tuple[str, dict[str, float]]]] = defaultdict(dict)
    for path in sorted((out_dir / participant).glob(f'ses-*/anat/*_seg-{seg}_*_morph.tsv')):
        parsed = parse_name(path.name)
        sidecar = read_marker(path.with_suffix('.json'))
        if parsed is None or not sidecar.get('Sources'):
            continue
        key = tuple(sorted((k, v) for k, v in parsed[0].items() if k != 'ses'))
        volumes = {
            row['name']: float(row['soft_volume_mm3'])
            for row in checked_rows(path)
            if row.get('soft_volume_mm3', 'n/a') != 'n/a'
        }
        found[f'ses-{parsed[0].get("ses", "")}'][key] = sidecar['Sources'][0], volumes
    common = set.intersection(*({*images} for images in found.values())) if found else set()
    visits = {}
    for session, images in found.items():
        used = [images[key] for key in sorted(common or images)]
        names = [name for name in used[0][1] if all(name in volumes for _, volumes in used)]
        means = {name: float(np.mean([v[name] for _, v in used])) for name in names}
        visits[session] = [uri for uri, _ in used], means
    return visits


def change_rows(
    times: Sequence[float], volumes: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Fit a straight line to the volumes of each structure.

    Parameters
    ----------
    times : sequence of float
        Times of the visits, not all of them equal.
    volumes : sequence of mapping of str to float
        Volumes of each visit in mm^3, by the name of the structure.

    Returns
    -------
    list of dict
        By column of :data:`CHANGE_COLUMNS`; the total is the last row.
    """
    index_of: dict[str, int | None] = {
        label.name: label.index for label in segmentation_labels(lesions=True)
    }
    index_of[TOTAL_NAME] = None
    rows = []
    for name, index in index_of.items():
        if index == 0 or not all(name in visit for visit in volumes):
            continue
        values = np.array([visit[name] for visit in volumes])
        row = {'name': name, 'mean_volume_mm3': float(values.mean()), 'n_visits': len(volumes)}
        row |= {} if index is None else {'index': index}
        rows.append({**row, 'change': percent_change(times, values)})
    return rows


def percent_change(times: Sequence[float], volumes: Sequence[float] | np.ndarray) -> float | None:
    """Return the slope of a straight line through volumes, in percent of their mean.

    Parameters
    ----------
    times : sequence of float
        Not all equal.
    volumes : sequence of float

    Returns
    -------
    float or None
        Per unit of time; None if there is no volume.

    Examples
    --------
    >>> percent_change([0, 1, 2], [10, 9, 8])
    -11.11111111111111
    """
    moments, values = np.asarray(times, dtype=float) - np.mean(times), np.asarray(volumes)
    mean = float(values.mean())
    return float(100 * (moments @ values) / (moments @ moments) / mean) if mean else None
