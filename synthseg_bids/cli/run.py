"""The BIDS App: find the images, segment them with Nipype, account for every one of them."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parser import RunConfig, parse_args

if TYPE_CHECKING:
    from synthseg_bids.bids.plan import ImageTask
    from synthseg_bids.bids.query import Skipped
    from synthseg_bids.bids.status import Outcome
    from synthseg_bids.workflows.monitor import Ledger
    from synthseg_bids.workflows.resources import Resources

logger = logging.getLogger('synthseg_bids')

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_BIDS, EXIT_INTERNAL, EXIT_INTERRUPTED = 1, 2, 3, 70, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the BIDS App.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    int
        0 all images done or up to date, 1 some failed, 2 wrong usage or no image matched, 3 not
        a BIDS dataset, 70 internal error, 130 interrupted.
    """
    config = parse_args(argv)
    _set_environment(config.verbose)
    # What batch systems send: stop the workers and write the status before we go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from synthseg_bids.bids.query import NotBidsError, QueryError
    from synthseg_bids.device import DeviceError
    from synthseg_bids.weights import ModelFileError

    try:
        return run(config)
    except NotBidsError as error:
        return _complain(error, EXIT_NOT_BIDS)
    except (QueryError, DeviceError, ModelFileError, PermissionError) as error:
        return _complain(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _complain('interrupted; the same command resumes', EXIT_INTERRUPTED)
    except Exception as error:
        logger.debug('internal error', exc_info=True)
        return _complain(f'internal error: {type(error).__name__}: {error}', EXIT_INTERNAL)


def run(config: RunConfig) -> int:
    """Segment a dataset.

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    int
        Exit code; see :func:`main`.
    """
    from synthseg_bids.bids.group import write_group_tables
    from synthseg_bids.bids.metadata import describe_dataset
    from synthseg_bids.bids.status import Outcome, write_status
    from synthseg_bids.weights import model_path, sha256
    from synthseg_bids.workflows.resources import plan_resources

    work_dir = _check_folders(config)
    derivatives = dict(config.derivatives)
    tasks, skipped = _find_tasks(config)
    model = model_path(config.model).absolute()
    resources = plan_resources(
        config.device, config.n_gpus, config.procs_per_gpu, config.nprocs, config.omp_nthreads,
        work_dir / 'locks',
    )  # fmt: skip
    pending, current = _split_current(config, tasks, sha256(model))
    outcomes = [
        Outcome(entry.relative, 'failed' if entry.failed else 'skipped', entry.reason)
        for entry in skipped
    ]
    outcomes += [Outcome(task.image.relative, 'skipped', 'up to date') for task in current]
    if config.dry_run:
        return _print_plan(pending, outcomes)

    from synthseg_bids.workflows.monitor import Ledger

    describe_dataset(config.output_dir, config.bids_dir, derivatives)
    log_dir = _start_log(config, model, resources)
    _announce(config, pending, skipped, resources, work_dir)
    ledger = Ledger(pending)
    try:
        _segment(config, ledger, model, resources, work_dir, log_dir)
    finally:
        outcomes += ledger.close(config.output_dir, config.posteriors)
        _note_missing_references(outcomes, pending, derivatives)
        write_status(config.output_dir, outcomes)
        write_group_tables(config.output_dir)
    return _summarise(outcomes)


def _set_environment(verbose: int) -> None:
    """Prepare logging and keep Nipype and CUDA from doing what nobody asked for."""
    os.environ.update(NO_ET='1', NIPYPE_NO_ET='1', PYTORCH_NVML_BASED_CUDA_CHECK='1')
    # Nipype's own handler writes to stdout, which is for results only; a first one keeps it away.
    nipype = logging.getLogger('nipype')
    nipype.addHandler(logging.NullHandler())
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
    console.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    if verbose < 2:
        console.addFilter(lambda record: record.name.startswith('synthseg_bids'))
    logging.basicConfig(level=logging.INFO, handlers=[console])
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def _complain(problem: object, code: int) -> int:
    print(f'synthseg-bids: error: {problem}', file=sys.stderr)
    return code


def _check_folders(config: RunConfig) -> Path:
    """Return the working directory; raise QueryError where folders are in each other's way."""
    from synthseg_bids.bids.metadata import read_description, refuse_foreign_dataset
    from synthseg_bids.bids.query import QueryError, list_participants

    bids_dir, out_dir = config.bids_dir.resolve(), config.output_dir.resolve()
    list_participants(config.bids_dir)
    if out_dir == bids_dir:
        raise QueryError(f'{out_dir}: the output folder is the dataset itself; use another one')
    refuse_foreign_dataset(out_dir)
    work_dir = config.work_dir
    if work_dir is None:
        work_dir = Path('work')
        if not os.access('.', os.W_OK) or bids_dir in [Path.cwd(), *Path.cwd().parents]:
            work_dir = Path(os.environ.get('TMPDIR', '/tmp'), 'synthseg-bids_work')
    work_dir = work_dir.resolve()
    if bids_dir in [work_dir, *work_dir.parents]:
        raise QueryError(f'{work_dir}: the working directory lies in the dataset; use -w DIR')
    for name, path in config.derivatives:
        if not path.is_dir():
            raise QueryError(f'-d {name}={path}: no such folder')
    if read_description(bids_dir) is None:
        logger.warning('%s: dataset_description.json is missing; going on', config.bids_dir)
    return work_dir


def _find_tasks(config: RunConfig) -> tuple[list[ImageTask], list[Skipped]]:
    """Find the images; raise QueryError if none matches."""
    from synthseg_bids.bids.plan import plan_tasks
    from synthseg_bids.bids.query import QueryError, find_images

    images, skipped = find_images(
        config.bids_dir, config.participant_label, config.session_label, config.suffix
    )
    tasks, clashes = plan_tasks(images, dict(config.derivatives))
    skipped += clashes
    if not tasks and not any(entry.failed for entry in skipped):
        raise QueryError(
            f'{config.bids_dir}: no image matched (suffixes {" ".join(config.suffix)}; '
            f'{len(skipped)} others in anat folders)'
        )
    return tasks, skipped


def _split_current(
    config: RunConfig, tasks: list[ImageTask], model_sha256: str
) -> tuple[list[ImageTask], list[ImageTask]]:
    """Split off the images whose outputs another run would not change."""
    from synthseg_bids import __version__
    from synthseg_bids.bids.save import is_up_to_date
    from synthseg_bids.weights import sha256

    if config.overwrite:
        return tasks, []
    pending: list[ImageTask] = []
    current: list[ImageTask] = []
    for task in tasks:
        kinds = task.kinds(config.posteriors)
        up_to_date = False
        # Reading every image to compare checksums is for those that have outputs at all.
        if (config.output_dir / f'{task.stem}_dseg.json').exists():
            expected = {
                'SoftwareVersion': __version__,
                'ModelSHA256': model_sha256,
                'FlipAveraging': not config.fast,
                'InputSHA256': sha256(task.image.path),
            }
            references = list(task.reference_uris.values())
            up_to_date = is_up_to_date(config.output_dir, task.stem, kinds, references, expected)
        (current if up_to_date else pending).append(task)
    return pending, current


def _print_plan(pending: list[ImageTask], outcomes: list[Outcome]) -> int:
    """Print what a run would do."""
    for task in pending:
        notes = [f'compared with {uri}' for uri in task.reference_uris.values()]
        print('\t'.join(['segment', task.image.relative, f'{task.stem}_dseg.nii.gz', *notes]))
    for outcome in outcomes:
        print(f'{outcome.status}\t{outcome.relative}\t{outcome.reason}')
    failed = sum(outcome.status == 'failed' for outcome in outcomes)
    print(f'{len(pending)} to segment, {len(outcomes) - failed} skipped, {failed} failed')
    return 0


def _start_log(config: RunConfig, model: Path, resources: Resources) -> Path:
    """Make the folder of this run's logs and save its settings there."""
    from synthseg_bids import __version__
    from synthseg_bids.bids.atomic import write_text

    run_uuid = f'{time.strftime("%Y%m%d-%H%M%S")}_{uuid.uuid4()}'
    log_dir = config.output_dir.resolve() / 'logs' / run_uuid
    settings = {'version': __version__, 'run_uuid': run_uuid, **asdict(config)}
    settings['derivatives'] = dict(config.derivatives)
    text = _toml(settings) + '\n[resources]\n' + _toml({'model_file': model, **asdict(resources)})
    write_text(log_dir / 'config.toml', text)
    handler = logging.FileHandler(log_dir / 'synthseg-bids.log')
    handler.setFormatter(logging.Formatter('%(asctime)s %(name)s %(levelname)s: %(message)s'))
    logging.getLogger().addHandler(handler)
    return log_dir


def _toml(settings: dict[str, Any]) -> str:
    """Write simple settings as TOML; those that are None are left out."""

    def value(entry: Any) -> str:
        if isinstance(entry, bool):
            return str(entry).lower()
        if isinstance(entry, int | float):
            return str(entry)
        if isinstance(entry, list | tuple):
            return f'[{", ".join(value(item) for item in entry)}]'
        if isinstance(entry, dict):
            return f'{{{", ".join(f"{key} = {value(item)}" for key, item in entry.items())}}}'
        text = str(entry).replace('\\', '\\\\').replace('"', '\\"')
        return f'"{text}"'

    return ''.join(f'{key} = {value(v)}\n' for key, v in settings.items() if v is not None)


def _announce(
    config: RunConfig,
    pending: list[ImageTask],
    skipped: list[Skipped],
    resources: Resources,
    work_dir: Path,
) -> None:
    """Log what is known before the first image is segmented."""
    from synthseg_bids.bids.validate import report_bids_errors

    if pending and not config.skip_bids_validation:
        participants = {task.image.entities['sub'] for task in pending}
        for line in report_bids_errors(config.bids_dir, participants, work_dir):
            logger.warning('BIDS validator: %s', line)
    for entry in skipped:
        if entry.failed:
            logger.error('%s: %s', config.bids_dir / entry.relative, entry.reason)
    logger.info(
        '%d images to segment on %s, %d at once with %d CPU threads each',
        len(pending), ', '.join(resources.devices), resources.n_segmentations, resources.threads,
    )  # fmt: skip


def _segment(
    config: RunConfig,
    ledger: Ledger,
    model: Path,
    resources: Resources,
    work_dir: Path,
    log_dir: Path,
) -> None:
    """Run the workflow."""
    from synthseg_bids.workflows.monitor import execute

    if not ledger.tasks:
        return
    # Two datasets may share a working directory.
    digest = hashlib.sha256(f'{config.bids_dir.resolve()}\n{config.output_dir.resolve()}'.encode())
    execute(
        ledger,
        config.output_dir.resolve(),
        base_dir=work_dir,
        name=f'synthseg_{digest.hexdigest()[:8]}_wf',
        log_dir=log_dir,
        resources=resources,
        stop_on_first_crash=config.stop_on_first_crash,
        model=str(model),
        flip=not config.fast,
        posteriors=config.posteriors,
        overwrite=config.overwrite,
    )


def _note_missing_references(
    outcomes: list[Outcome], tasks: list[ImageTask], derivatives: dict[str, Path]
) -> None:
    """Say in the status where no reference was found."""
    found = {task.image.relative: task.references for task in tasks}
    for outcome in outcomes:
        if outcome.status == 'done':
            without = [name for name in derivatives if name not in found[outcome.relative]]
            notes = [outcome.reason, f'no reference in {", ".join(without)}' if without else '']
            outcome.reason = '; '.join(note for note in notes if note)


def _summarise(outcomes: list[Outcome]) -> int:
    """Print the last line; return the exit code."""
    counts = dict.fromkeys(('done', 'skipped', 'failed'), 0)
    for outcome in outcomes:
        counts[outcome.status] += 1
    print('{done} done, {skipped} skipped, {failed} failed'.format(**counts), flush=True)
    return EXIT_FAILED if counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
