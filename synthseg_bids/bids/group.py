"""Tables over all images, rebuilt from the output dataset alone."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from synthseg_bids.external.methods import LONGITUDINAL
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.parcel_overlap import MEAN_OF_PARCELS
from synthseg_bids.measure.qc_measures import MEASURES
from synthseg_bids.measure.qc_rules import VERDICT

from ..files import remove_table, write_json, write_table
from .agreement import read_source
from .brain_charts import write_brain_charts
from .group_morph import GroupMorph, group_morph, structure_names, write_long, write_wide
from .group_stats import OUTLIER_COLUMNS, RELIABILITY_COLUMNS, find_outliers, reliability
from .metadata import read_description, write_descriptions
from .names import anat_files, parse_name
from .records import read_whole_table
from .tables import AGREEMENT_COLUMNS, METHOD, QC_COLUMNS, TOTAL_NAME

logger = logging.getLogger(__name__)

Row = dict[str, str]

_IDENTITY = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a if there are none.'},
    'source': {'Description': 'BIDS URI of the image.'},
    'method': METHOD,
    # Not suffix, acquisition and run: pybids takes such keys of a sidecar for entities, finds
    # that they differ from those in file names, and refuses the dataset.
    'contrast': {'Description': 'Suffix of the image.'},
    'acq_id': {'Description': 'The acq entity of the image.'},
    'run_id': {'Description': 'The run entity of the image.'},
}
_REFERENCE = {'Description': 'Dataset of the reference, a key of DatasetLinks.'}
_AGREEMENT_IDENTITY = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a if there are none, or if the two differ.'},
    'method': METHOD,
    **{key: AGREEMENT_COLUMNS[key] for key in ('comparison', 'source_1', 'source_2')},
    'contrast_1': {'Description': 'Suffix of the first image.'},
    'contrast_2': {'Description': 'Suffix of the second image.'},
    'statistic': {
        'Description': 'What the columns of the structures hold in this row.',
        'Levels': {
            'dice': f'{AGREEMENT_COLUMNS["dice"]["Description"]}',
            'volume_difference': f'{AGREEMENT_COLUMNS["volume_difference"]["Description"]} In '
            'percent.',
        },
    },
    **{key: AGREEMENT_COLUMNS[key] for key in ('rotation', 'shift', 'residual')},
}


def write_group_tables(
    out_dir: Path,
    damaged: Collection[str] = (),
    bids_dir: Path | None = None,
    charts: bool = False,
) -> None:
    """Gather the tables of all images, and what stands out in them.

    Writes ``group_morph.tsv``, ``group_morph_long.tsv``, ``group_dice.tsv``, ``group_qc.tsv``,
    ``group_agreement.tsv``, ``group_outliers.tsv`` and ``group_reliability.tsv``, each with its
    data dictionary, and ``descriptions.tsv``. A table that would have no row is removed.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    damaged : collection of str
        Files that are left out, relative to it; see :func:`.damage.damaged_outputs`.
    bids_dir : Path, optional
        The raw dataset, whose participants.tsv, sessions.tsv and sidecars are joined (default,
        also where it is no folder: the one that the output dataset was made from).
    charts : bool
        Whether to write ``group_brainchart.csv``; see :mod:`.brain_charts`.
    """
    volumes = _gather(out_dir, 'morph', 'name', 'volume_mm3', damaged)
    overlaps = _gather(out_dir, 'dice', 'name', 'dice', damaged)
    compared = (MEAN_NAME, *structure_names(overlaps))
    if any(MEAN_OF_PARCELS in row for row in overlaps):
        compared += (MEAN_OF_PARCELS,)
    columns = {name: {'Description': f'Dice overlap of {name}.'} for name in compared}
    _write(out_dir, 'dice', {**_IDENTITY, 'reference': _REFERENCE, **columns}, overlaps)

    quality = _gather(out_dir, 'qc', 'measure', 'value', damaged)
    _write(out_dir, 'qc', {**_IDENTITY, **_qc_columns()}, quality)

    verdicts = {(row['source'], row['method']): row.get(VERDICT, '') for row in quality}
    raw = _find_raw(out_dir, bids_dir) if volumes else None
    _write_morph(out_dir, group_morph(volumes, _IDENTITY, verdicts, raw), charts, raw)

    agreement = _gather_agreement(out_dir, damaged)
    columns = {
        name: {'Description': f'Of {name}.'}
        for name in (MEAN_NAME, *structure_names(agreement), TOTAL_NAME)
    }
    _write(out_dir, 'agreement', {**_AGREEMENT_IDENTITY, **columns}, agreement)

    _write_statistics(out_dir, volumes, quality)
    together = any(row['method'] == LONGITUDINAL.seg for row in volumes)
    write_descriptions(out_dir, sorted({row['contrast'] for row in volumes}), together)


def _write_statistics(out_dir: Path, volumes: list[Row], quality: list[Row]) -> None:
    """Write which images stand out and how well volumes are repeated."""
    names = [*structure_names(volumes), TOTAL_NAME]
    compared = [measure.name for measure in MEASURES if measure.compared]
    images = pd.DataFrame(volumes, columns=[*_IDENTITY, *names])
    outliers = [
        *find_outliers(images, names, 'morph', logarithmic=True),
        *find_outliers(pd.DataFrame(quality, columns=[*_IDENTITY, *compared]), compared, 'qc'),
    ]
    _write(out_dir, 'outliers', {**_IDENTITY, **OUTLIER_COLUMNS}, outliers)
    _write(out_dir, 'reliability', RELIABILITY_COLUMNS, reliability(images, names))


def _find_raw(out_dir: Path, bids_dir: Path | None) -> Path | None:
    """Find the raw dataset; None, with a warning, if it is not where it was."""
    links = (read_description(out_dir) or {}).get('DatasetLinks') or {}
    linked = out_dir / str(links.get('raw', ''))
    for folder in (bids_dir, linked if 'raw' in links else None):
        if folder is not None and folder.is_dir():
            return folder
    logger.warning(
        '%s: not found; tables are written without participants.tsv and scanners',
        bids_dir or linked,
    )
    return None


def _write_morph(out_dir: Path, morph: GroupMorph, charts: bool, raw: Path | None) -> None:
    """Write the volumes of all images, and remove the tables if there are none."""
    wide, long = out_dir / 'group_morph.tsv', out_dir / 'group_morph_long.tsv'
    if morph.table.empty:
        for path in (wide, long):
            remove_table(path)
        return
    write_wide(wide, morph)
    write_json(wide.with_suffix('.json'), morph.columns)
    write_json(long.with_suffix('.json'), write_long(long, morph))
    if charts:
        write_brain_charts(out_dir / 'group_brainchart.csv', morph, raw)


def _qc_columns() -> dict[str, dict[str, Any]]:
    columns: dict[str, dict[str, Any]] = {}
    for measure in MEASURES:
        units = {'Units': measure.units} if measure.units else {}
        columns[measure.name] = {'Description': measure.explanation} | units
    levels = QC_COLUMNS['flag']['Levels']
    columns[VERDICT] = {'Description': 'The worst flag of all measures.', 'Levels': levels}
    columns['reasons'] = {'Description': 'What led to the verdict.'}
    return columns


def _write(
    out_dir: Path, kind: str, columns: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write one table and its data dictionary; remove both if there are no rows."""
    rows = list(rows)
    target = out_dir / f'group_{kind}.tsv'
    if rows:
        write_table(target, columns, rows)
        write_json(target.with_suffix('.json'), columns)
    else:
        remove_table(target)


def _tables(out_dir: Path, name: str, damaged: Collection[str] = ()) -> Iterator[Path]:
    for path in anat_files(out_dir, f'sub-*_seg-*_{name}.tsv'):
        if path.relative_to(out_dir).as_posix() not in damaged:
            yield path


def _gather(out_dir: Path, kind: str, key: str, value: str, damaged: Collection[str]) -> list[Row]:
    """Turn the long tables of all images into wide rows, sorted by image and reference."""
    rows = [
        row
        for path in _tables(out_dir, f'desc-*_{kind}', damaged)
        for row in _widen(path, key, value)
    ]
    return sorted(rows, key=lambda row: (row['source'], row['method'], row['reference']))


def _widen(path: Path, key: str, value: str) -> list[Row]:
    """Turn the long table of one image into one wide row per reference (or one row)."""
    parsed = parse_name(path.name)
    source = read_source(path.with_suffix('.json'))
    if parsed is None or source is None:
        logger.warning('%s: its sidecar does not name its source; left out of the group', path)
        return []
    entities = parsed[0]
    identity = {
        **_whose(entities),
        'source': source,
        'method': entities['seg'],
        'contrast': entities['desc'],
        'acq_id': entities.get('acq', ''),
        'run_id': entities.get('run', ''),
    }
    wide: dict[str, Row] = {}
    for row in read_whole_table(path, (key, value)):
        reference = row.get('reference', '')
        cells = wide.setdefault(reference, {**identity, 'reference': reference})
        cells[row[key]] = row[value]
        if row[key] == VERDICT:
            cells['reasons'] = row['reason']
    return list(wide.values())


def _whose(entities: Mapping[str, str]) -> Row:
    return {
        'participant_id': f'sub-{entities["sub"]}',
        'session_id': f'ses-{entities["ses"]}' if 'ses' in entities else '',
    }


def _gather_agreement(out_dir: Path, damaged: Collection[str]) -> list[Row]:
    """Turn the long tables of agreement into two wide rows per pair of images."""
    wide: dict[tuple[str, ...], Row] = {}
    for path in _tables(out_dir, 'agreement', damaged):
        parsed = parse_name(path.name)
        if parsed is None:
            continue
        needed = ('source_1', 'source_2', 'name', 'dice', 'volume_difference')
        for row in read_whole_table(path, needed):
            for statistic in ('dice', 'volume_difference'):
                two = row['source_1'], row['source_2']
                method = parsed[0]['seg']
                cells = wide.setdefault(
                    (*two, method, statistic),
                    {
                        **_whose(parsed[0]),
                        'method': method,
                        'comparison': row['comparison'],
                        'source_1': two[0],
                        'source_2': two[1],
                        'contrast_1': _contrast(two[0]),
                        'contrast_2': _contrast(two[1]),
                        'statistic': statistic,
                    },
                )
                cells[row['name']] = row[statistic]
                if row['name'] == MEAN_NAME:
                    cells |= {column: row[column] for column in ('rotation', 'shift', 'residual')}
    return [wide[key] for key in sorted(wide)]


def _contrast(source: str) -> str:
    return source.rpartition('_')[2].partition('.')[0]
