"""What a run of the BIDS App would do: images, outputs, what is up to date, what is left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RunConfig
from .method import ChosenMethod

if TYPE_CHECKING:
    from synthseg_bids.bids.checksums import Checksums
    from synthseg_bids.bids.plan import ImageTask
    from synthseg_bids.bids.query import Skipped
    from synthseg_bids.bids.status import Outcome

logger = logging.getLogger(__name__)


@dataclass
class Plan:
    """The images of a dataset, and what is to be done about each.

    Attributes
    ----------
    pending, current : list of ImageTask
        Images to segment, and those whose outputs are up to date.
    reasons : dict of str to str
        Why an image is to be segmented, by the stem of its outputs.
    skipped : list of Skipped
        All others.
    """

    pending: list[ImageTask] = field(default_factory=list)
    current: list[ImageTask] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def tasks(self) -> list[ImageTask]:
        """Images that are segmented, by this run or an earlier one."""
        return [*self.pending, *self.current]


def check_folders(config: RunConfig) -> Path:
    """Return the working directory; raise QueryError where folders are in each other's way."""
    from synthseg_bids.bids.metadata import read_description, refuse_foreign_dataset
    from synthseg_bids.bids.query import QueryError, list_participants

    bids_dir, out_dir = config.bids_dir.resolve(), config.output_dir.resolve()
    list_participants(config.bids_dir)
    if out_dir == bids_dir:
        raise QueryError(f'{out_dir}: the output folder is the dataset itself; use another one')
    if bids_dir in out_dir.parents:
        folder = out_dir.relative_to(bids_dir).parts[0]
        better = f'use {bids_dir}/derivatives/synthseg-bids'
        if folder.startswith('sub-'):
            raise QueryError(f'{out_dir}: the output folder lies in that of a subject; {better}')
        if folder not in ('derivatives', 'sourcedata'):
            logger.warning('%s: lies in the dataset, as raw data do; better %s', out_dir, better)
    refuse_foreign_dataset(out_dir)
    work_dir = (config.work_dir or default_work_dir(bids_dir)).resolve()
    if bids_dir in [work_dir, *work_dir.parents]:
        raise QueryError(f'{work_dir}: the working directory lies in the dataset; use -w DIR')
    for name, path in config.derivatives:
        if not path.is_dir():
            raise QueryError(f'-d {name}={path}: no such folder; give the root of a dataset')
    if read_description(bids_dir) is None:
        logger.warning('%s: dataset_description.json is missing; going on', config.bids_dir)
    return work_dir


def default_work_dir(bids_dir: Path) -> Path:
    """Return ``./work``; where that cannot be, or would be in the dataset, a temporary folder."""
    if not os.access('.', os.W_OK) or bids_dir.resolve() in [Path.cwd(), *Path.cwd().parents]:
        return Path(os.environ.get('TMPDIR', '/tmp'), 'synthseg-bids_work')
    return Path.cwd() / 'work'


def make_plan(config: RunConfig, chosen: ChosenMethod, checksums: Checksums) -> Plan:
    """Find the images and tell which of them must be segmented.

    Parameters
    ----------
    config : RunConfig
    chosen : ChosenMethod
    checksums : Checksums

    Returns
    -------
    Plan

    Raises
    ------
    QueryError
        If no image matches, or what was asked for does not exist.
    NotBidsError
        If the folder holds no subject.
    """
    from synthseg_bids.bids.filters import read_filters
    from synthseg_bids.bids.plan import plan_tasks
    from synthseg_bids.bids.query import (
        DEFAULT_SUFFIXES,
        QueryError,
        find_images,
        keep_first_echoes,
        select_participants,
    )

    participants = select_participants(
        config.bids_dir, config.participant_label, config.exclude_participant_label
    )
    if config.batch:
        number, of = config.batch
        participants = participants[number - 1 :: of]
        if not participants:
            logger.info('batch %d of %d has no participants', number, of)
            return Plan()
    # pybids need not look for names where all participants are wanted.
    narrowed = bool(config.participant_label or config.exclude_participant_label or config.batch)
    filters = None
    if config.bids_filter_file:
        filters = read_filters(config.bids_filter_file, [*DEFAULT_SUFFIXES, *config.suffix])
    images, skipped = find_images(
        config.bids_dir, participants if narrowed else None, config.session_label, config.suffix,
        filters, config.bids_database_dir, config.bids_database_wipe,
    )  # fmt: skip
    if config.echo == 'first':
        images, others = keep_first_echoes(images)
        skipped += others
    tasks, clashes = plan_tasks(images, dict(config.derivatives), chosen.method.seg)
    plan = Plan(skipped=skipped + clashes)
    if not tasks and not config.batch and not any(entry.failed for entry in plan.skipped):
        raise QueryError(_nothing_left(config, plan.skipped))
    for task in tasks:
        reason = why_pending(config, task, chosen, checksums)
        (plan.pending if reason else plan.current).append(task)
        plan.reasons[task.stem] = reason
    return plan


def _nothing_left(config: RunConfig, skipped: Sequence[Skipped]) -> str:
    """Say why no image is left: the reasons of those that were left out, most frequent first."""
    from synthseg_bids.bids.query import LITTER_REASON

    # That another suffix was asked for is no reason.
    skipped = [entry for entry in skipped if entry.reason != LITTER_REASON]
    reasons = Counter(entry.reason for entry in skipped if not entry.reason.startswith('suffix '))
    if not reasons:
        return (
            f'{config.bids_dir}: no image matched (suffixes {" ".join(config.suffix)}; '
            f'{len(skipped)} others in anat folders); choose with --suffix'
        )
    first = {entry.reason: entry.relative for entry in reversed(skipped)}
    told = [
        f'{first[reason]}{f" and {count - 1} more" if count > 1 else ""}: {reason}'
        for reason, count in reasons.most_common(3)
    ]
    return f'{config.bids_dir}: no image is left to segment; {"; ".join(told)}'


def why_pending(
    config: RunConfig, task: ImageTask, chosen: ChosenMethod, checksums: Checksums
) -> str:
    """Say why an image must be segmented; empty if its outputs are up to date."""
    from synthseg_bids import __version__
    from synthseg_bids.bids.save import has_outputs, why_outdated

    kinds = task.kinds(**config.outputs)
    # Reading images to compare checksums is for those that have outputs at all.
    if not has_outputs(config.output_dir, task.stem, kinds):
        return 'no outputs yet'
    if config.overwrite:
        return 'up to date, but --overwrite'
    references = {
        uri: checksums.of(uri, task.references[name]) for name, uri in task.reference_uris.items()
    }
    expected = {
        'SoftwareVersion': __version__,
        **chosen.identity(config, task.image.suffix),
        'InputSHA256': checksums.of(task.source, task.image.path),
    }
    return why_outdated(config.output_dir, task.stem, kinds, references, expected, config.verify)


def print_plan(config: RunConfig, plan: Plan) -> None:
    """Print a table of every image."""
    from synthseg_bids.bids.query import LITTER_REASON
    from synthseg_bids.bids.save import output_files

    rows = [('ACTION', 'IMAGE', 'REASON', 'OUTPUTS')]
    for task in plan.pending:
        files = output_files(task.stem, task.kinds(**config.outputs))
        names = [file.rpartition('/')[2] for file in files if not file.endswith('.json')]
        rows.append(('segment', task.image.relative, plan.reasons[task.stem], ' '.join(names)))
    rows += [('none', task.image.relative, 'up to date', '') for task in plan.current]
    litter = [entry for entry in plan.skipped if entry.reason == LITTER_REASON]
    skipped = [entry for entry in plan.skipped if config.verbose or entry not in litter]
    for entry in skipped:
        rows.append(('fail' if entry.failed else 'skip', entry.relative, entry.reason, ''))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print('  '.join([*cells, row[-1]]).rstrip())
    failed = sum(entry.failed for entry in skipped)
    print(
        f'{len(plan.pending)} to segment, '
        f'{len(plan.current) + len(skipped) - failed} skipped, {failed} failed'
    )


def known_outcomes(plan: Plan) -> list[Outcome]:
    """List the outcomes that are certain before anything has run."""
    from synthseg_bids.bids.query import LITTER_REASON
    from synthseg_bids.bids.status import Outcome

    return [
        Outcome(entry.relative, 'failed' if entry.failed else 'skipped', entry.reason)
        for entry in plan.skipped
        if entry.reason != LITTER_REASON
    ] + [Outcome(task.image.relative, 'current', 'up to date') for task in plan.current]


def note_missing_references(
    outcomes: Iterable[Outcome], tasks: Iterable[ImageTask], names: Iterable[str]
) -> None:
    """Say in the outcomes where no reference was found."""
    found = {task.image.relative: task.references for task in tasks}
    for outcome in outcomes:
        if outcome.status == 'done':
            without = [name for name in names if name not in found[outcome.relative]]
            notes = [outcome.reason, f'no reference in {", ".join(without)}' if without else '']
            outcome.reason = '; '.join(note for note in notes if note)
