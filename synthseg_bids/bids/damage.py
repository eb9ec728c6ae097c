"""Find damaged outputs: those that differ from what was recorded when they were written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..files import read_text
from .names import anat_files, has_parcels, has_tissues, parse_name
from .records import TableError, fault, is_broken_seal, read_whole_table, unreadable

logger = logging.getLogger(__name__)

#: Files that are written with every label map.
_ALWAYS = ('morph.tsv', 'morph.json', 'qc.tsv', 'qc.json')
#: Kind of output that may be deleted to save space, together with its sidecar.
_OPTIONAL = 'probseg'


def read_marker(path: Path) -> dict[str, Any]:
    """Read a sidecar that records the other outputs; empty if it is absent or broken."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def damage(out_dir: Path, marker: Path, verify: bool = False) -> dict[str, str]:
    """Compare the outputs of one image with what was recorded when they were written.

    Parameters
    ----------
    out_dir : Path
    marker : Path
        Sidecar of the label map that was written last. One of an earlier version notes nothing:
        then the files are looked at for what cannot be whole.
    verify : bool
        Whether to read the files; otherwise their sizes and ends are compared.

    Returns
    -------
    dict of str to str
        What is wrong with each damaged output, by its path relative to the output dataset.
    """
    own = marker.relative_to(out_dir).as_posix()
    content = read_marker(marker)
    if not content:
        return {own: 'is no sidecar of a label map'} if marker.exists() else {}
    wrong = {}
    if is_broken_seal(marker, content):
        wrong[own] = 'is not what was written (its checksum differs)'
    noted = content.get('Outputs')
    if not isinstance(noted, Mapping):
        return {**wrong, **_unnoted(out_dir, marker)}
    for name, entry in noted.items():
        if found := fault(out_dir / name, entry, verify):
            wrong[name] = found
    return {name: what for name, what in wrong.items() if not _deleted(out_dir / name)}


def _deleted(path: Path) -> bool:
    """Return whether posteriors were deleted together with their sidecar, to save space."""
    stem = path.name.removesuffix('.json').removesuffix('.nii.gz')
    both = (path.with_name(f'{stem}.nii.gz'), path.with_name(f'{stem}.json'))
    return stem.endswith(_OPTIONAL) and not any(one.exists() for one in both)


def _unnoted(out_dir: Path, marker: Path) -> dict[str, str]:
    """Find files of one image that cannot be complete, although nothing is recorded of them."""
    own = marker.name.removesuffix('dseg.json')
    start = own.replace('_res-1mm_', '_')
    paths = {path for some in (own, start) for path in marker.parent.glob(f'{some}*')}
    paths |= {
        marker.with_name(f'{own}dseg.nii.gz'),
        *(marker.with_name(start + e) for e in _ALWAYS),
    }
    found = {path.relative_to(out_dir).as_posix(): unreadable(path) for path in sorted(paths)}
    return {name: what for name, what in found.items() if what}


def markers(out_dir: Path, participant: str = 'sub-*') -> Iterator[Path]:
    """List the sidecars of all label maps, or of those of one participant; see :func:`damage`."""
    paths = anat_files(out_dir, 'sub-*_seg-*_dseg.json', participant)
    return (p for p in paths if not (has_tissues(p.name) or has_parcels(p.name)))


def damaged_outputs(
    out_dir: Path, verify: bool = False, participant: str = 'sub-*'
) -> dict[str, str]:
    """Return what is wrong with the outputs of all images; see :func:`damage`.

    Parameters
    ----------
    out_dir : Path
    verify : bool
        Whether to read the outputs; otherwise their sizes and ends are compared.
    participant : str
        Name of a participant's folder, or a pattern of such names (default: all participants).

    Notes
    -----
    An image that counts as done in ``group_status.tsv`` and has no outputs in its participant's
    folder counts as damaged, too.
    """
    found: dict[str, str] = {}
    seen = set()
    for path in markers(out_dir, participant):
        found |= damage(out_dir, path, verify)
        parsed = parse_name(path.name)
        sources = read_marker(path).get('Sources') or ['']
        seen.add((sources[0], parsed[0].get('seg', '') if parsed else ''))
    found |= damaged_agreement(out_dir, verify, participant)
    return found | _lost(out_dir, seen, participant)


def damaged_agreement(
    out_dir: Path, verify: bool = False, participant: str = 'sub-*'
) -> dict[str, str]:
    """Return what is wrong with the tables of agreement; see :func:`damaged_outputs`."""
    found = {}
    for path in anat_files(out_dir, 'sub-*_seg-*_agreement.tsv', participant):
        if what := agreement_fault(path, read_marker(path.with_suffix('.json')), verify):
            found[path.relative_to(out_dir).as_posix()] = what
    return found


def agreement_fault(path: Path, sidecar: Mapping[str, Any], verify: bool = False) -> str:
    """Return what is wrong with a table of agreement; empty if it is whole.

    Parameters
    ----------
    path : Path
    sidecar : mapping
        Content of its sidecar; those of earlier versions record nothing of the table.
    verify : bool
        Whether to read all of the table; otherwise its size and its end are compared.
    """
    noted = sidecar.get('Table') or {}
    return fault(path, noted, verify and bool(noted)) or unreadable(path)


def _lost(out_dir: Path, seen: set[tuple[str, str]], participant: str) -> dict[str, str]:
    """Find images with the status "done" that have no label map."""
    path = out_dir / 'group_status.tsv'
    if not path.exists():
        return {}
    try:
        rows = read_whole_table(path, ['source', 'status', 'participant_id'])
    except TableError as error:
        return {path.name: str(error).removeprefix(f'{path}: ').partition(';')[0]}
    found = {}
    for row in rows:
        key = row['source'], row.get('method', 'synthseg')
        folder = row['participant_id']
        if row['status'] == 'done' and key not in seen and fnmatch(folder, participant):
            what = f'holds no outputs of {row["source"]}, which {path.name} says is done'
            if (out_dir / folder).is_dir():
                found[f'{folder} ({row["source"]}, {key[1]})'] = what
            else:
                logger.warning('%s: is gone, but %s says it is done', out_dir / folder, path.name)
    return found


def checked_rows(path: Path) -> list[dict[str, str]]:
    """Read a table of one image or session; log an error and return no rows if it is damaged."""
    if not path.exists():
        return []
    kind = path.name.rpartition('_')[2]
    stem = path.name.removesuffix(kind)
    start, _, contrast = stem.rpartition('_desc-')
    if kind == 'agreement.tsv':
        noted = read_marker(path.with_suffix('.json')).get('Table') or {}
    else:
        sidecars = (f'{stem}dseg.json', f'{start}_res-1mm_desc-{contrast}dseg.json')
        outputs = [read_marker(path.with_name(name)).get('Outputs') or {} for name in sidecars]
        entries = {name: entry for some in outputs[::-1] for name, entry in some.items()}
        noted = next((e for name, e in entries.items() if name.endswith(f'/{path.name}')), {})
    what = fault(path, noted)
    try:
        rows = read_whole_table(path)
    except TableError as error:
        what, rows = what or str(error).removeprefix(f'{path}: '), []
    if what:
        logger.error('%s: %s; left out', path, what.partition(';')[0])
        return []
    return rows
