"""The BIDS App: find the images, segment them with Nipype, record the outcome of each."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from synthseg_bids.errors import UsageError, explain_error

from ..hardware.processes import prepare_processes, start_fork_server
from .command_line import parse_args
from .config import RunConfig, format_config, read_plugin
from .dry_run import print_plan
from .execute import Setup, clean_workdir, segment_images
from .group_outputs import (
    check_run,
    outdated_participants,
    tree_participants,
    write_reports,
    write_second_dataset,
    write_tables,
)
from .longitudinal import segment_visits
from .method import ChosenMethod, choose_method
from .parser import PROG
from .plan import (
    Plan,
    check_folders,
    make_plan,
    note_missing_references,
)
from .resources import check_resources, choose_plugin, divide_resources, fit_memory
from .sessions import combine_sessions

if TYPE_CHECKING:
    from synthseg_bids.bids.image_record import ImageRecord
    from synthseg_bids.bids.sessions import SessionRecord
    from synthseg_bids.workflows.resources import Resources

logger = logging.getLogger('synthseg_bids')

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_BIDS, EXIT_INTERNAL = 1, 2, 3, 70
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

#: Errors of the operating system that count as wrong usage: the paths given cannot be used.
_USAGE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class Terminated(KeyboardInterrupt):
    """The process has received SIGTERM, as batch systems send it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the BIDS App.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    int
        0 all images done or up to date, 1 some failed or a report or table could not be written,
        2 wrong usage or no image matched, 3 not a BIDS dataset, 70 internal error, 130
        interrupted, 143 terminated.
    """
    config = parse_args(argv)
    _set_environment(config.verbose)
    previous = signal.signal(signal.SIGTERM, _terminate)
    from synthseg_bids.bids.errors import NotBidsError
    from synthseg_bids.files import EncodingError

    try:
        return run(config)
    except NotBidsError as error:
        return _complain(error, EXIT_NOT_BIDS)
    except (UsageError, EncodingError) as error:
        return _complain(error, EXIT_USAGE)
    except Terminated:
        return _complain('terminated; the same command resumes', EXIT_TERMINATED)
    except KeyboardInterrupt:
        return _complain('interrupted; the same command resumes', EXIT_INTERRUPTED)
    except OSError as error:
        logger.debug('error of the system', exc_info=True)
        code = EXIT_USAGE if error.errno in _USAGE_ERRORS else EXIT_FAILED
        return _complain(explain_error(error), code)
    except Exception as error:
        logger.debug('internal error', exc_info=True)
        return _complain(f'internal error: {type(error).__name__}: {error}', EXIT_INTERNAL)
    finally:
        signal.signal(signal.SIGTERM, previous)


def run(config: RunConfig) -> int:
    """Run what the settings ask for.

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    int
        Exit code; see :func:`main`.
    """
    from synthseg_bids.bids.locks import held_by_others

    out_dir = config.output_dir.resolve()
    if config.reports_only:
        participants = tree_participants(out_dir, config.participant_label)
        if config.run_uuid:
            check_run(out_dir, config.run_uuid)
        return 0 if _write_reports(config, participants) else EXIT_FAILED
    code = 0
    if 'participant' in config.analysis_level:
        code = _run_participants(config)
    if 'group' in config.analysis_level and not (config.dry_run or config.boilerplate_only):
        participants = tree_participants(out_dir)
        # Another run that is at work on a participant will compare its contrasts itself.
        held = held_by_others(out_dir, participants)
        complete = _write_tables(config, [p for p in participants if p not in held])
        complete &= _write_reports(config, participants)
        code = code if complete else EXIT_FAILED
    return code


def _run_participants(config: RunConfig) -> int:
    """Segment a dataset; return the exit code."""
    from synthseg_bids.bids.checksums import Checksums
    from synthseg_bids.bids.metadata import describe_dataset
    from synthseg_bids.files import write_text

    work_dir = check_folders(config)
    check_resources(config)
    plugin = read_plugin(config.use_plugin) if config.use_plugin else ('MultiProc', {})
    if config.debug:
        plugin = 'Linear', {'debug': True}
    if plugin[0] == 'MultiProc' and not (config.dry_run or config.boilerplate_only):
        start_fork_server()  # beside this process's own import of PyTorch
    chosen = choose_method(config)
    out_dir = config.output_dir.resolve()
    checksums = Checksums(out_dir)
    plan = make_plan(config, chosen, checksums)
    if config.dry_run:
        if config.mem_gb:
            fit_memory(config, plan.pending, chosen)
        print_plan(config, plan)
        return 0
    if config.boilerplate_only:
        print(_cite(config, chosen, [image.stem for image in [*plan.pending, *plan.current]]))
        return 0
    resources = divide_resources(config, plan.pending, chosen, plugin[0], work_dir)
    plugin = choose_plugin(plugin, resources)
    # First of all, so that a folder that is not writable is an error before anything has run.
    write_text(work_dir / '.writable', '')
    tissues = 'tissue_maps' in config.tissues
    links = dict(config.derivatives)
    describe_dataset(out_dir, config.bids_dir, links, chosen.method, tissues, config.parc)
    log_dir = _start_log(config, chosen, resources)
    setup = Setup(chosen, resources, plugin, work_dir, log_dir, checksums)
    _announce(config, plan, setup)
    if config.clean_workdir:
        clean_workdir(config, work_dir)
    complete = _segment(config, plan, setup)
    return _summarise(plan.counted, complete)


def _segment(config: RunConfig, plan: Plan, setup: Setup) -> bool:
    """Segment the images, write tables and reports; return whether all could be written."""
    from synthseg_bids.bids.status import write_status
    from synthseg_bids.workflows.runner import Ledger

    out_dir = config.output_dir.resolve()
    ledger = Ledger(plan.pending)
    complete = interrupted = False
    sessions: list[SessionRecord] = []
    visits: set[str] = set()
    together = True
    try:
        with ledger.progress:
            segment_images(config, plan, ledger, setup)
        if config.combine == 'session':
            sessions = combine_sessions(config, plan, setup)
        if config.longitudinal:
            visits, together = segment_visits(config, plan, setup)
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        ledger.close(out_dir, **config.outputs)
        note_missing_references(plan.pending, dict(config.derivatives))
        write_status(out_dir, plan.counted, setup.chosen.method.seg)
        setup.checksums.save()
        # After an interrupt, users do not wait for tables of thousands of images.
        if not interrupted:
            changed = {session.participant for session in sessions} | visits
            complete = _finish(config, plan, setup, changed) and together
            complete &= all(session.status != 'failed' for session in sessions)
            if config.precomputed:
                participants = {image.participant for image in (*plan.pending, *plan.current)}
                complete &= write_second_dataset(config, sorted(participants))
    return complete


def _finish(config: RunConfig, plan: Plan, setup: Setup, together: Iterable[str]) -> bool:
    """Write tables, methods text and reports where something changed.

    `together` are participants several of whose images were segmented together.
    """
    from synthseg_bids.bids.citation import image_stems

    out_dir = config.output_dir.resolve()
    changed = {image.participant for image in plan.pending}
    changed.update(together, outdated_participants(out_dir, plan.current))
    # If every task of a job array gathered all tables, the time would grow with the square of
    # their number.
    group = config.batch is None
    asked = config.charts and group
    if not changed and not asked and (not group or (out_dir / 'group.html').exists()):
        return True
    participants = sorted(changed)
    complete = _write_tables(config, participants, group)
    _cite(config, setup.chosen, image_stems(out_dir, setup.chosen.method.seg))
    return _write_reports(config, participants, group) and complete


def _write_tables(config: RunConfig, participants: Sequence[str], group: bool = True) -> bool:
    out_dir, raw = config.output_dir.resolve(), config.bids_dir
    return write_tables(out_dir, participants, group, config.verify, raw, config.charts)


def _write_reports(config: RunConfig, participants: Sequence[str], group: bool = True) -> bool:
    return write_reports(
        config.output_dir.resolve(),
        participants,
        config.aggregate_session_reports,
        config.run_uuid or '',
        group,
    )


def _cite(config: RunConfig, chosen: ChosenMethod, stems: Iterable[str]) -> Path:
    from synthseg_bids.bids.citation import write_citation

    return write_citation(
        config.output_dir.resolve(),
        stems,
        **chosen.about(config),
        flip=not config.fast,
        autocrop=config.autocrop,
        output_grid=config.output_grid,
        references=[name for name, _ in config.derivatives],
        parcels=config.parc,
        sessions=config.combine == 'session',
        visits=config.longitudinal,
    )


def _set_environment(verbose: int) -> None:
    """Set up logging, and environment variables of PyTorch and of the memory allocator."""
    prepare_processes()
    os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'
    # Nipype adds a handler that writes to stdout, unless there is one; stdout is for results only.
    nipype = logging.getLogger('nipype')
    nipype.addHandler(logging.NullHandler())
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
    console.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    if verbose < 2:
        console.addFilter(lambda record: record.name.startswith('synthseg_bids'))
    logging.basicConfig(level=logging.INFO, handlers=[console])
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def _terminate(number: int, frame: object) -> None:
    """Turn SIGTERM into an exception, so that workers are stopped and the status is written."""
    raise Terminated


def _complain(problem: object, code: int) -> int:
    print(f'{PROG}: error: {problem}', file=sys.stderr)
    return code


def _start_log(config: RunConfig, chosen: ChosenMethod, resources: Resources) -> Path:
    """Make the folder of this run's logs and save its settings there."""
    from synthseg_bids import __version__
    from synthseg_bids.files import write_text
    from synthseg_bids.workflows.multiproc import log_handler

    run_uuid = f'{time.strftime("%Y%m%d-%H%M%S")}_{uuid.uuid4()}'
    log_dir = config.output_dir.resolve() / 'logs' / run_uuid
    about = {'version': __version__, 'uuid': run_uuid, 'command': shlex.join(sys.argv)}
    used = {**chosen.used(), **asdict(resources)}
    write_text(log_dir / 'config.toml', format_config(config, run=about, resources=used))
    logging.getLogger().addHandler(log_handler(log_dir / 'synthseg-bids.log'))
    return log_dir


def _announce(config: RunConfig, plan: Plan, setup: Setup) -> None:
    """Log what is known before the first image is segmented."""
    from synthseg_bids.bids.validate import report_bids_errors

    if plan.pending and not config.skip_bids_validation:
        participants = {image.participant for image in plan.pending}
        for line in report_bids_errors(config.bids_dir, participants, setup.work_dir):
            logger.warning('BIDS validator: %s', line)
    for image in plan.skipped:
        if image.status == 'failed' or image.surprising:
            level = logging.ERROR if image.status == 'failed' else logging.WARNING
            logger.log(level, '%s: %s', image.path, image.reason)
    if not plan.pending:
        logger.info('nothing to do: %d images are up to date', len(plan.current))
        return
    for image in plan.pending:
        if image.reason != 'no outputs yet':
            logger.info('%s: again, since %s', image.relative, image.reason)
    resources = setup.resources
    logger.info(
        '%d images to segment on %s, %d at once with %d CPU threads each; %d are up to date',
        len(plan.pending), ', '.join(resources.devices), resources.n_segmentations,
        resources.threads, len(plan.current),
    )  # fmt: skip


def _summarise(images: Iterable[ImageRecord], complete: bool) -> int:
    """Print the last line; return the exit code."""
    counts = dict.fromkeys(('done', 'skipped', 'current', 'failed'), 0)
    for image in images:
        counts[image.status] += 1
    counts['skipped'] += counts['current']
    print('{done} done, {skipped} skipped, {failed} failed'.format(**counts), flush=True)
    return 0 if complete and not counts['failed'] else EXIT_FAILED


if __name__ == '__main__':
    sys.exit(main())
