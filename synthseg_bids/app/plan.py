"""Plan a run of the BIDS App: images to segment, up to date, and skipped."""

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
    from synthseg_bids.bids.image_record import ImageRecord

logger = logging.getLogger(__name__)


@dataclass
class Plan:
    """The images of a dataset, by what was to be done about them before the run.

    Attributes
    ----------
    pending, current : list of ImageRecord
        Images to segment, and those whose outputs are up to date.
    skipped : list of ImageRecord
        All others, among them those that have failed.
    """

    pending: list[ImageRecord] = field(default_factory=list)
    current: list[ImageRecord] = field(default_factory=list)
    skipped: list[ImageRecord] = field(default_factory=list)

    @property
    def counted(self) -> list[ImageRecord]:
        """All images but what file systems and editors have left behind."""
        from synthseg_bids.bids.query import LITTER_REASON

        others = [image for image in self.skipped if image.reason != LITTER_REASON]
        return [*others, *self.current, *self.pending]


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
    if config.precomputed:
        second = config.precomputed.resolve()
        if second == bids_dir or out_dir in (second, *second.parents) or second in out_dir.parents:
            raise QueryError(f'--precomputed {second}: give a folder of its own, beside {out_dir}')
        refuse_foreign_dataset(second)
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
    from synthseg_bids.bids.plan import plan_outputs
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
    # If all participants are wanted, pybids need not compare labels.
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
    images, clashes = plan_outputs(images, dict(config.derivatives), chosen.method.seg)
    plan = Plan(skipped=skipped + clashes)
    failed = any(image.status == 'failed' for image in plan.skipped)
    if not images and not config.batch and not failed:
        raise QueryError(_nothing_left(config, plan.skipped))
    for image in images:
        check_pending(config, image, chosen, checksums)
        (plan.pending if image.status == 'pending' else plan.current).append(image)
    return plan


def _nothing_left(config: RunConfig, skipped: Sequence[ImageRecord]) -> str:
    """Return an error message with the most frequent reasons why images were left out."""
    from synthseg_bids.bids.query import LITTER_REASON

    # Images of other suffixes are not expected to be segmented.
    skipped = [image for image in skipped if image.reason != LITTER_REASON]
    reasons = Counter(image.reason for image in skipped if not image.reason.startswith('suffix '))
    if not reasons:
        return (
            f'{config.bids_dir}: no image matched (suffixes {" ".join(config.suffix)}; '
            f'{len(skipped)} others in anat folders); choose with --suffix'
        )
    first = {image.reason: image.relative for image in reversed(skipped)}
    told = [
        f'{first[reason]}{f" and {count - 1} more" if count > 1 else ""}: {reason}'
        for reason, count in reasons.most_common(3)
    ]
    return f'{config.bids_dir}: no image is left to segment; {"; ".join(told)}'


def check_pending(
    config: RunConfig, image: ImageRecord, chosen: ChosenMethod, checksums: Checksums
) -> None:
    """Record why an image must be segmented, or that its outputs are up to date."""
    reason = _why_pending(config, image, chosen, checksums)
    image.settle('pending' if reason else 'current', reason or 'up to date')


def _why_pending(
    config: RunConfig, image: ImageRecord, chosen: ChosenMethod, checksums: Checksums
) -> str:
    from synthseg_bids import __version__
    from synthseg_bids.bids.save import has_outputs, why_outdated

    kinds = image.kinds(**config.outputs)
    # Images without outputs need not be read to compare checksums.
    if not has_outputs(config.output_dir, image.stem, kinds):
        return 'no outputs yet'
    if config.overwrite:
        return 'up to date, but --overwrite'
    references = {
        uri: checksums.of(uri, image.references[name])
        for name, uri in image.reference_uris.items()
    }
    expected = {
        'SoftwareVersion': __version__,
        **chosen.identity(config, image.suffix),
        'InputSHA256': checksums.of(image.source, image.path),
    }
    return why_outdated(config.output_dir, image.stem, kinds, references, expected, config.verify)


def print_plan(config: RunConfig, plan: Plan) -> None:
    """Print a table of every image."""
    from synthseg_bids.bids.query import LITTER_REASON
    from synthseg_bids.bids.save import output_files

    rows = [('ACTION', 'IMAGE', 'REASON', 'OUTPUTS')]
    for image in plan.pending:
        files = output_files(image.stem, image.kinds(**config.outputs))
        names = [file.rpartition('/')[2] for file in files if not file.endswith('.json')]
        rows.append(('segment', image.relative, image.reason, ' '.join(names)))
    rows += [('none', image.relative, image.reason, '') for image in plan.current]
    skipped = [image for image in plan.skipped if config.verbose or image.reason != LITTER_REASON]
    for image in skipped:
        action = 'fail' if image.status == 'failed' else 'skip'
        rows.append((action, image.relative, image.reason, ''))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print('  '.join([*cells, row[-1]]).rstrip())
    for line in _together(config, plan):
        print(line)
    failed = sum(image.status == 'failed' for image in skipped)
    print(
        f'{len(plan.pending)} to segment, '
        f'{len(plan.current) + len(skipped) - failed} skipped, {failed} failed'
    )


def _together(config: RunConfig, plan: Plan) -> list[str]:
    """Tell which sessions and visits will be segmented together, if their images succeed."""
    from synthseg_bids.bids.sessions import list_sessions

    from .longitudinal import list_visits

    lines, hoped = [], ('pending', 'current')
    if config.combine == 'session':
        for session in list_sessions([*plan.current, *plan.pending], hoped):
            names = ' '.join(image.path.name for image in session.images)
            lines.append(f'together (--combine session)  {session.relative}  {names}')
    if config.longitudinal:
        for label, images in list_visits(plan, hoped).items():
            visits = ' '.join(sorted({f'ses-{image.entities["ses"]}' for image in images}))
            lines.append(f'together (--longitudinal)  sub-{label}  {visits}')
    return lines


def note_missing_references(images: Iterable[ImageRecord], names: Iterable[str]) -> None:
    """Add to the reasons of images where no reference was found."""
    for image in images:
        without = [name for name in names if name not in image.references]
        if image.status == 'done' and without:
            note = f'no reference in {", ".join(without)}'
            image.reason = f'{image.reason}; {note}' if image.reason else note
