"""A second dataset with one anatomical image per participant, under the names others look for.

``smriprep --derivatives`` and ``fmriprep --derivatives`` find a brain mask, a label map of tissues
and their probabilities by names without ``seg``, and take the scan that they belong to in RAS.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib

from synthseg_bids.external.methods import OURS
from synthseg_bids.images.canonical import copy_canonical
from synthseg_bids.measure.qc_rules import FAIL, VERDICT

from ..files import remove_leftovers, write_json, write_text
from .damage import checked_rows, damage, read_marker
from .locks import hold_participants
from .metadata import read_description, relative_path, write_description
from .names import anat_files, anat_folder, bids_uri, parse_name
from .records import read_known, record, seal
from .save import output_files
from .tissues import tissue_sidecars, write_tissue_lookup

logger = logging.getLogger(__name__)

#: Names of what is copied, by kind, after those of participant and session.
_NAMES = {
    'brain_mask': 'desc-brain_mask',
    'gm': 'label-GM_probseg',
    'wm': 'label-WM_probseg',
    'csf': 'label-CSF_probseg',
    'tissues': 'dseg',
}
#: The kind whose sidecar is written last and tells about the others.
_MARKER = 'tissues'
#: Suffixes of images, the preferred ones first.
_PREFERRED = ('T1w', 'T2w', 'PDw', 'FLAIR')
#: Name of the output dataset in BIDS URIs.
_SEGMENTATIONS = 'segmentations'

_README = """# Masks and tissue maps for sMRIPrep and fMRIPrep

Made by synthseg-bids. For one anatomical image of each participant: a brain mask, a label map of
grey matter (1), white matter (2) and cerebrospinal fluid (3), and their probabilities, on the grid
of the image with its axes along R, A and S, as sMRIPrep and fMRIPrep take the image itself. Give
this folder to their option --derivatives.

The image is the one that comes first by these rules: quality not failed; T1w before T2w, PDw,
FLAIR and all others; the smallest of the largest voxel sides, then the smallest voxels; the name.
The first of Sources in a sidecar names it. Of participants with several T1w images sMRIPrep makes
an average, which the mask does not fit: choose the one in Sources by --bids-filter-file.
"""


@dataclass(frozen=True)
class _Candidate:
    """A segmented image: where its outputs are, and what they were made from."""

    stem: str
    source: str
    entities: Mapping[str, str]
    suffix: str
    inputs: Mapping[str, str]  # checksums of what is to be copied


def write_precomputed(
    out_dir: Path,
    folder: Path,
    bids_dir: Path,
    participants: Iterable[str],
    verify: bool = False,
) -> None:
    """Write mask and tissue maps of one image of each participant, where they are not up to date.

    Parameters
    ----------
    out_dir : Path
        The output dataset, with brain masks and tissue maps.
    folder : Path
        The dataset to write.
    bids_dir : Path
        The raw dataset.
    participants : iterable of str
        Labels.
    verify : bool
        Whether to read what is there, and not only look at its size.
    """
    raw = read_description(bids_dir) or {}
    datasets = {'raw': bids_dir, _SEGMENTATIONS: out_dir}
    links = {name: relative_path(path, folder) for name, path in datasets.items()}
    folder.mkdir(parents=True, exist_ok=True)
    name = f'Masks and tissue maps of {raw.get("Name") or "a BIDS dataset"}'
    write_description(folder, name, raw, links)
    write_text(folder / 'README.md', _README)
    write_tissue_lookup(folder / 'dseg.tsv')
    failed = {
        row['source']
        for row in read_known(out_dir / 'group_status.tsv', ('source', 'status'))
        if row['status'] == 'failed' and row.get('method', OURS) == OURS
    }
    for participant in participants:
        with hold_participants(out_dir, {participant}):
            found = [
                c for c in _candidates(out_dir, participant, verify) if c.source not in failed
            ]
            _write_participant(out_dir, folder, participant, found, verify)


def _candidates(out_dir: Path, participant: str, verify: bool) -> Iterator[_Candidate]:
    """Yield the images of a participant that have all that is to be copied, undamaged."""
    name = f'sub-*_seg-{OURS}_desc-*_morph.tsv'
    for table in anat_files(out_dir, name, f'sub-{participant}'):
        stem = table.relative_to(out_dir).as_posix().removesuffix('_morph.tsv')
        markers = [out_dir / output_files(stem, [kind])[1] for kind in ('dseg', 'dseg1mm')]
        marker = next((path for path in markers if path.exists()), None)
        sidecar = read_marker(marker) if marker else {}
        noted = sidecar.get('Outputs', {})
        names = output_files(stem, [*_NAMES])[::2]
        if marker is None or not all(name in noted for name in names):
            continue
        source = sidecar['Sources'][0]
        parsed = parse_name(unquote(source).rpartition('/')[2])
        wrong = damage(out_dir, marker, verify)
        there = all((out_dir / name).is_file() and name not in wrong for name in names)
        if there and parsed:
            inputs = {name: noted[name]['SHA256'] for name in names}
            yield _Candidate(stem, source, *parsed[:2], inputs)


def _rank(out_dir: Path, candidate: _Candidate) -> tuple[Any, ...]:
    """Return what images are sorted by: see the README of the dataset."""
    rows = checked_rows(out_dir / f'{candidate.stem}_qc.tsv')
    verdict = next((row['value'] for row in rows if row['measure'] == VERDICT), '')
    suffix = candidate.suffix
    mask: Any = nib.load(out_dir / output_files(candidate.stem, ['brain_mask'])[0])
    # Headers keep sizes of 1 mm as 0.9999999.
    sides = [round(float(mm), 3) for mm in mask.header.get_zooms()[:3]]
    return (
        verdict == FAIL,
        _PREFERRED.index(suffix) if suffix in _PREFERRED else len(_PREFERRED),
        max(sides),
        round(sides[0] * sides[1] * sides[2], 3),
        candidate.stem,
    )


def _write_participant(
    out_dir: Path, folder: Path, participant: str, found: Collection[_Candidate], verify: bool
) -> None:
    """Copy the files of the best image and remove those of any other."""
    best = min(found, key=lambda candidate: _rank(out_dir, candidate), default=None)
    paths = _paths(folder, best.entities) if best else {}
    for path in _earlier(folder, participant) - {*paths.values()}:
        path.unlink()
    if best is None:
        logger.warning(
            'sub-%s: no image has masks and tissue maps; not in %s', participant, folder
        )
        return
    n_same = sum(candidate.suffix == 'T1w' for candidate in found)
    if best.suffix == 'T1w' and n_same > 1:
        logger.warning(
            'sub-%s: %d T1w images, which sMRIPrep would average; choose %s by --bids-filter-file',
            participant, n_same, best.source.rpartition('/')[2],
        )  # fmt: skip
    marker = paths[_MARKER, '.json']
    current = read_marker(marker).get('Inputs') == best.inputs
    whole = all(path.is_file() for path in paths.values())
    if not (current and whole) or damage(folder, marker, verify):
        _copy(out_dir, folder, best, paths)
        logger.info('sub-%s: %s is in %s', participant, best.source.rpartition('/')[2], folder)


def _paths(folder: Path, entities: Mapping[str, str]) -> dict[tuple[str, str], Path]:
    """Name the files of a participant, or of a session, by kind and extension."""
    start = '_'.join(f'{key}-{entities[key]}' for key in ('sub', 'ses') if key in entities)
    return {
        (kind, end): folder / anat_folder(entities) / f'{start}_{name}{end}'
        for kind, name in _NAMES.items()
        for end in ('.nii.gz', '.json')
    }


def _earlier(folder: Path, participant: str) -> set[Path]:
    """Return the files of a participant that are there, of whichever session."""
    visits = [path.name.removeprefix('ses-') for path in folder.glob(f'sub-{participant}/ses-*')]
    places = [{'sub': participant}, *({'sub': participant, 'ses': visit} for visit in visits)]
    paths = {path for entities in places for path in _paths(folder, entities).values()}
    return {path for path in paths if path.is_file()}


def _copy(
    out_dir: Path, folder: Path, best: _Candidate, paths: Mapping[tuple[str, str], Path]
) -> None:
    """Copy the files of an image, each with its sidecar; that of the label map comes last."""
    marker = paths[_MARKER, '.json']
    marker.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(marker.parent)
    marker.unlink(missing_ok=True)
    sidecars = tissue_sidecars(best.source)
    records = {}
    for kind, name in zip(_NAMES, output_files(best.stem, [*_NAMES])[::2], strict=True):
        copy_canonical(out_dir / name, paths[kind, '.nii.gz'])
        sidecars[kind]['Sources'] = [best.source, bids_uri(_SEGMENTATIONS, name)]
        if kind != _MARKER:
            write_json(paths[kind, '.json'], sidecars[kind])
    for path in {*paths.values()} - {marker}:
        records[path.relative_to(folder).as_posix()] = record(path)
    noted = {'Inputs': best.inputs, 'Outputs': dict(sorted(records.items()))}
    write_text(marker, seal({**sidecars[_MARKER], **noted}))
