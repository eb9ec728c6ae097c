"""Group tables and reports, which are written once images are done."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthseg_bids.errors import describe

from .config import RunConfig

if TYPE_CHECKING:
    from synthseg_bids.bids.image_record import ImageRecord

logger = logging.getLogger(__name__)


class DamagedError(ValueError):
    """Outputs differ from the checksums recorded when they were written."""


def tree_participants(out_dir: Path, wanted: Iterable[str] | None = None) -> list[str]:
    """List the participants of an output dataset.

    Parameters
    ----------
    out_dir : Path
    wanted : iterable of str, optional
        Labels without ``sub-``.

    Returns
    -------
    list of str
        Sorted labels without ``sub-``.

    Raises
    ------
    QueryError
        If the folder is no dataset of ours, or a wanted one is not there.
    """
    from synthseg_bids.bids.metadata import read_description, refuse_foreign_dataset
    from synthseg_bids.bids.query import QueryError, select_participants

    if read_description(out_dir) is None:
        raise QueryError(f'{out_dir}: holds no segmentations; run the participant level first')
    refuse_foreign_dataset(out_dir)
    if not any(out_dir.glob('sub-*/')):
        return []
    return select_participants(out_dir, wanted)


def outdated_participants(out_dir: Path, images: Iterable[ImageRecord]) -> list[str]:
    """List the participants whose report is missing or older than their outputs.

    Parameters
    ----------
    out_dir : Path
    images : iterable of ImageRecord
        Images whose outputs are up to date.
    """
    outdated = set()
    for image in images:
        table = _modified(out_dir / f'{image.stem}_morph.json')
        if table > _modified(out_dir / f'sub-{image.participant}.html'):
            outdated.add(image.participant)
    return sorted(outdated)


def check_run(out_dir: Path, run_uuid: str) -> None:
    """Raise QueryError, with the runs that there are, unless a run has left its logs."""
    from synthseg_bids.bids.query import QueryError

    known = sorted(path.parent.name for path in out_dir.glob('logs/*/config.toml'))
    if run_uuid not in known:
        raise QueryError(
            f'--run-uuid {run_uuid}: no such run in {out_dir / "logs"}; '
            f'there are: {", ".join(known) or "none"}'
        )


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def write_tables(
    out_dir: Path,
    participants: Sequence[str],
    group: bool = True,
    verify: bool = False,
    bids_dir: Path | None = None,
    charts: bool = False,
) -> bool:
    """Compare the contrasts of some participants and gather the tables of all.

    Parameters
    ----------
    out_dir : Path
    participants : sequence of str
    group : bool
        Whether to gather them; takes the longer the more participants there are.
    verify : bool
        Whether to read all outputs, and not only look at their sizes.
    bids_dir, charts
        See :func:`.bids.group.write_group_tables`.

    Returns
    -------
    bool
        False if something could not be written, which is logged.
    """
    from filelock import FileLock

    from synthseg_bids.bids.agreement import write_agreement
    from synthseg_bids.bids.damage import damaged_outputs
    from synthseg_bids.bids.group import write_group_tables

    wrong: dict[str, str] = {}

    def compare() -> None:
        # The tables of all are gathered, those of participants of other runs, too.
        labels = _with_damaged_tables(out_dir, participants, verify) if group else participants
        write_agreement(out_dir, labels, verify)

    def gather() -> None:
        # If several runs end at once, the one that writes last must have read last, too.
        with FileLock(out_dir / 'logs' / '.tables.lock'):
            write_group_tables(out_dir, wrong, bids_dir, charts)

    def check() -> None:
        wrong.update(damaged_outputs(out_dir, verify))
        # Outputs that another run is writing are left out of the tables, too, but are no error.
        ours = _without_unfinished(out_dir, wrong, verify)
        if ours:
            told = '; '.join(f'{out_dir / name} {what}' for name, what in ours.items())
            raise DamagedError(f'{told}: run the participant level again')

    return _attempt(
        ('agreement between contrasts', compare),
        *([('damaged outputs', check)] if group else []),
        *([('group tables', gather)] if group else []),
    )


def _with_damaged_tables(out_dir: Path, participants: Iterable[str], verify: bool) -> list[str]:
    """Add those whose tables of agreement are damaged, unless another run is at work on them."""
    from synthseg_bids.bids.damage import damaged_agreement
    from synthseg_bids.bids.locks import held_by_others

    damaged = {_participant(name) for name in damaged_agreement(out_dir, verify)}
    return sorted({*participants} | (damaged - held_by_others(out_dir, damaged)))


def _without_unfinished(out_dir: Path, wrong: Mapping[str, str], verify: bool) -> dict[str, str]:
    """Leave out the outputs that another run is writing, or has written since they were seen."""
    from synthseg_bids.bids.damage import damaged_outputs
    from synthseg_bids.bids.locks import held_by_others, hold_participants

    labels = {_participant(name) for name in wrong if name.startswith('sub-')}
    held = held_by_others(out_dir, labels)
    found = {name: what for name, what in wrong.items() if not name.startswith('sub-')}
    for label in sorted(labels):
        if label in held:
            logger.warning('sub-%s: another run is writing its outputs', label)
            continue
        with hold_participants(out_dir, {label}):
            found.update(damaged_outputs(out_dir, verify, f'sub-{label}'))
    return found


def _participant(output: str) -> str:
    """Return the label in the name of an output, or in a text that starts with it."""
    return re.split('[/ ]', output)[0].removeprefix('sub-')


def write_reports(
    out_dir: Path,
    participants: Sequence[str],
    most_sessions: int,
    run_uuid: str = '',
    group: bool = True,
) -> bool:
    """Write the reports of some participants and that of the group; see :func:`write_tables`.

    Parameters
    ----------
    out_dir : Path
    participants : sequence of str
    most_sessions : int
        Participants with more sessions have a report for each of them as well.
    run_uuid : str
        Run whose settings and crashes are shown (default: settings of the last one).
    group : bool
        Whether to write that of the group.
    """
    from synthseg_bids.reports.group import write_group_report
    from synthseg_bids.reports.subject import write_subject_report

    def subject(label: str) -> Callable[[], object]:
        return lambda: write_subject_report(out_dir, label, most_sessions, run_uuid)

    return _attempt(
        *((f'report of sub-{label}', subject(label)) for label in participants),
        *([('group report', lambda: write_group_report(out_dir, run_uuid))] if group else []),
    )


def write_second_dataset(config: RunConfig, participants: Sequence[str]) -> bool:
    """Write the dataset of ``--precomputed`` for some participants; see :func:`write_tables`."""
    from synthseg_bids.bids.precomputed import write_precomputed

    assert config.precomputed is not None
    folder, out_dir = config.precomputed.resolve(), config.output_dir.resolve()

    def write() -> None:
        write_precomputed(out_dir, folder, config.bids_dir, participants, config.verify)

    return _attempt((str(folder), write))


def _attempt(*steps: tuple[str, Callable[[], object]]) -> bool:
    """Run every step, even if others fail; return whether all succeeded."""
    complete = True
    for what, step in steps:
        try:
            step()
        except Exception as error:
            if isinstance(error, DamagedError):
                logger.error('%s', error)
            else:
                logger.error('%s: not written (%s)', what, describe(error))
            logger.debug('%s', what, exc_info=True)
            complete = False
    return complete
