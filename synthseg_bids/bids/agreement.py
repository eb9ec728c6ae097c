"""Agreement between the segmentations of one participant, from the output dataset alone.

Every session with several images has a table of its own, all pairs in it. Visits are compared in
a table of the participant: each image with the one of the same name in the next session that has
it, sessions in the order of their labels.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from synthseg_bids import __version__
from synthseg_bids.files import sha256
from synthseg_bids.images.volume_io import read_label_map
from synthseg_bids.measure.agreement import Outline, compare, outline

from ..files import read_description, remove_table, write_json, write_table
from .damage import agreement_fault, read_marker
from .locks import hold_participants
from .names import (
    anat_files,
    anat_folder,
    has_parcels,
    has_tissues,
    parse_name,
    participant_folders,
)
from .records import record
from .tables import AGREEMENT_COLUMNS, agreement_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LabelMap:
    """One of our label maps: its file, the source image, and the entities of that image."""

    path: Path
    source: str
    session: str
    contrast: str
    seg: str
    name: tuple[tuple[str, str], ...]


_Pair = tuple[str, _LabelMap, _LabelMap]


def write_agreement(
    out_dir: Path, participants: Iterable[str] | None = None, verify: bool = False
) -> list[Path]:
    """Compare the segmentations of each participant and save the tables.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    participants : iterable of str, optional
        Labels, with or without ``sub-`` (default: all in the dataset).
    verify : bool
        Whether to read all of the tables that there are, or to compare their sizes and ends.

    Returns
    -------
    list of Path
        The tables written; those that are whole and whose label maps have not changed are left as
        they are, those of fewer than two label maps are removed.

    Notes
    -----
    Every participant is held while its tables are written, see :func:`.locks.hold_participants`:
    a run that ends at the same time would see a table without its sidecar.
    """
    if participants is None:
        participants = participant_folders(out_dir)
    written: list[Path] = []
    for participant in participants:
        label = participant.removeprefix('sub-')
        with hold_participants(out_dir, {label}):
            written += _write_participant(out_dir, label, verify)
    return written


def _write_participant(out_dir: Path, label: str, verify: bool) -> Iterator[Path]:
    maps = _label_maps(out_dir, f'sub-{label}')
    tables = _plan(maps, out_dir, label)
    for path in (out_dir / f'sub-{label}').rglob('*_seg-*_agreement.tsv'):
        if path not in tables:
            remove_table(path)
    # Kept for one participant only: those of a thousand do not fit into memory.
    outlines = lru_cache(maxsize=None)(_outline)
    for path, pairs in tables.items():
        origin = _origin(pairs, out_dir)
        if not _is_current(path, origin, verify):
            rows = [row for pair in pairs for row in _compare(pair, outlines)]
            write_table(path, AGREEMENT_COLUMNS, rows)
            sidecar = {**origin, **AGREEMENT_COLUMNS, 'Table': record(path)}
            write_json(path.with_suffix('.json'), sidecar)
            yield path


def _label_maps(out_dir: Path, participant: str) -> list[_LabelMap]:
    """List the finished label maps of a participant, one per image and method."""
    found: dict[tuple[str, str], _LabelMap] = {}
    paths = anat_files(out_dir, 'sub-*', participant)
    # Label maps on a 1 mm grid are sorted last, and used if there is no other.
    for path in sorted(paths, key=lambda path: ('_res-' in path.name, path)):
        parsed = parse_name(path.name)
        other = has_tissues(path.name) or has_parcels(path.name)
        if parsed is None or parsed[1:] != ('dseg', '.nii.gz') or other:
            continue
        entities = parsed[0]
        seg = entities.get('seg', '')
        source = read_source(path.with_name(f'{path.name.removesuffix(".nii.gz")}.json'))
        if not seg or source is None or (source, seg) in found:
            continue
        name = tuple((k, v) for k, v in entities.items() if k not in ('ses', 'res'))
        session, contrast = entities.get('ses', ''), entities.get('desc', '')
        found[source, seg] = _LabelMap(path, source, session, contrast, seg, name)
    return sorted(found.values(), key=lambda entry: (entry.source, entry.seg))


def read_source(sidecar: Path) -> str | None:
    """Return the BIDS URI of the image that a derivative was made from.

    Parameters
    ----------
    sidecar : Path

    Returns
    -------
    str or None
        None if the sidecar is missing or does not say.
    """
    try:
        return str(read_description(sidecar)['Sources'][0])
    except (LookupError, TypeError):
        return None


def _plan(maps: Sequence[_LabelMap], out_dir: Path, participant: str) -> dict[Path, list[_Pair]]:
    """Choose the pairs of each table."""
    tables: dict[Path, list[_Pair]] = defaultdict(list)
    for one, other in combinations(maps, 2):
        if one.session == other.session and one.seg == other.seg:
            comparison = 'repeats' if one.contrast == other.contrast else 'contrasts'
            table = _table(out_dir, participant, one.session, one.seg)
            tables[table].append((comparison, one, other))
    series: dict[Any, list[_LabelMap]] = defaultdict(list)
    for entry in maps:
        series[entry.name].append(entry)
    for entries in series.values():
        for one, other in pairwise(sorted(entries, key=lambda entry: entry.session)):
            table = _table(out_dir, participant, '', one.seg)
            tables[table].append(('visits', one, other))
    return dict(tables)


def _table(out_dir: Path, participant: str, session: str, seg: str) -> Path:
    entities = {'sub': participant} | ({'ses': session} if session else {})
    stem = '_'.join(f'{key}-{value}' for key, value in entities.items())
    return out_dir / anat_folder(entities) / f'{stem}_seg-{seg}_agreement.tsv'


def _origin(pairs: Sequence[_Pair], out_dir: Path) -> dict[str, Any]:
    """Return the sources of a table, which change if another run would change the table."""
    maps = {entry.source: entry.path for _, *two in pairs for entry in two}
    return {
        'Sources': sorted(maps),
        'LabelMaps': {
            maps[source].relative_to(out_dir).as_posix(): sha256(maps[source])
            for source in sorted(maps)
        },
        'SoftwareVersion': __version__,
    }


def _is_current(path: Path, origin: dict[str, Any], verify: bool) -> bool:
    sidecar = read_marker(path.with_suffix('.json'))
    if not sidecar or not path.exists():
        return False
    if what := agreement_fault(path, sidecar, verify):
        logger.warning('%s: %s; written again', path, what)
        return False
    return all(sidecar.get(key) == value for key, value in origin.items())


def _outline(path: Path) -> Outline:
    volume = read_label_map(path)
    return outline(volume.data, volume.affine)


def _compare(pair: _Pair, outlines: Any) -> list[dict[str, Any]]:
    """Return the rows of one pair; none if it cannot be compared."""
    comparison, one, other = pair
    try:
        found = compare(outlines(one.path), outlines(other.path))
    except ValueError as error:
        logger.warning('%s: not compared with %s: %s', one.path, other.path, error)
        return []
    return agreement_rows(found, comparison=comparison, source_1=one.source, source_2=other.source)
