"""Segment all scans of a folder, or of a list, with one network that is loaded once."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..bids.damage import read_marker
from ..bids.ignore import is_litter
from ..bids.records import fault, is_broken_seal, record, seal
from ..errors import is_out_of_memory
from ..files import read_text, sha256, sidecar, write_table, write_text
from ..images.checks import READABLE, check_output
from ..images.volume_io import Volume
from ..inference.memory_estimate import describe_model
from ..inference.reading import read_ahead
from ..inference.segmenter import Segmenter
from ..labels import channels_of
from ..measure.overlap import TOTAL_NAME
from ..models import PARCEL_MODEL
from ..parcels import parcel_labels
from ..progress import Progress
from .segment_scan import Found, load, measure, segment, write_maps

logger = logging.getLogger(__name__)

#: Suffixes of output names, as those of ``mri_synthseg``.
LABELS, POSTERIORS = '_synthseg', '_posteriors'
#: What the record of a scan with parcels of the cortex names.
_PARCELS = 'ParcelModelSHA256'


@dataclass(frozen=True)
class Job:
    """A scan and its outputs.

    Attributes
    ----------
    scan : Path
    name : str
        Name of the scan in the table.
    labels : Path
    posteriors : Path or None
    """

    scan: Path
    name: str
    labels: Path
    posteriors: Path | None

    @property
    def record(self) -> Path:
        """JSON file with the provenance of the outputs; it is written last."""
        return sidecar(self.labels)

    @property
    def outputs(self) -> dict[str, Path]:
        """Output files by kind."""
        maps = {'labels': self.labels, 'posteriors': self.posteriors}
        return {kind: path for kind, path in maps.items() if path is not None}


def run(args: argparse.Namespace) -> int:
    """Segment the scans without complete outputs, then write the table of all volumes.

    Returns
    -------
    int
        0, or 1 if a scan could not be segmented; the log names it.

    Raises
    ------
    ValueError
        If there is no scan, two have one output, or the model or an option cannot be used.
    OSError
        If an output cannot be written.
    """
    jobs = list_jobs(args)
    segmenter = load(args)
    made_by = {
        'SoftwareVersion': __version__,
        'ModelSHA256': segmenter.card.sha256,
        'FlipAveraging': not args.fast,
        'CT': args.ct,
        'Lesions': args.lesions,
        'Compat': args.compat,
    }
    if args.parc:
        made_by[_PARCELS] = describe_model(PARCEL_MODEL).sha256
    found = {} if args.overwrite else {job: _volumes_on_disk(job, made_by) for job in jobs}
    volumes = {job: known for job, known in found.items() if known is not None}
    todo = [job for job in jobs if job not in volumes]
    if volumes:
        logger.info('%d scans have their outputs already (--overwrite: anew)', len(volumes))
    failed: list[str] = []
    try:
        with Progress(len(todo), 'scan') as progress:
            ended = _segment_all(segmenter, todo, args, made_by)
            for n_ended, (job, writing) in enumerate(ended, 1):
                try:
                    volumes[job], note = writing.result()
                except (ValueError, MemoryError, RuntimeError) as error:
                    note = f'failed: {_why(error, job)}'
                    failed.append(note)
                progress.show(n_ended, job.name)
                if not progress.at_terminal:
                    left = progress.time_left()
                    logger.info('%d/%d %s%s', n_ended, len(todo), note, left)
    finally:
        if args.volumes is not None:
            _write_volumes(args, jobs, volumes, len(segmenter.labels))
    done = len(jobs) - len(failed)
    logger.info('%d of %d scans are segmented, %d failed', done, len(jobs), len(failed))
    for note in failed:
        logger.error('%s', note)
    return 1 if failed else 0


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """List all scans with their outputs.

    Raises
    ------
    ValueError
        If there is no scan, or an output would overwrite another one or a scan.
    """
    listed = not args.scan.is_dir()
    scans = _listed(args.scan) if listed else _in_folder(args.scan, args.out, args.recursive)
    if not scans:
        deeper = '' if listed or args.recursive else '; --recursive looks into its folders, too'
        raise ValueError(f'{args.scan}: holds no scan ({", ".join(READABLE)}){deeper}')
    names = [Path(scan.name) if listed else scan.relative_to(args.scan) for scan in scans]
    stems = [name.with_name(_stem(name.name)) for name in names]
    if args.out.suffix == '.txt':
        outputs = _listed(args.out)
        if len(outputs) != len(scans):
            raise ValueError(
                f'{args.out}: has {len(outputs)} lines for {len(scans)} scans; give one each'
            )
    else:
        outputs = [args.out / stem.with_name(f'{stem.name}{LABELS}.nii.gz') for stem in stems]
    jobs = []
    for scan, name, stem, labels in zip(scans, names, stems, outputs, strict=True):
        maps = args.posteriors and args.posteriors / f'{stem}{POSTERIORS}.nii.gz'
        jobs.append(Job(scan, str(scan) if listed else name.as_posix(), labels, maps))
    _check_outputs(jobs)
    return jobs


def _check_outputs(jobs: list[Job]) -> None:
    scans = {job.scan.resolve() for job in jobs}
    owners: dict[Path, Job] = {}
    for job in jobs:
        for path in job.outputs.values():
            check_output(path)
            if path.resolve() in scans:
                raise ValueError(f'{path}: would overwrite a scan; give another name')
            other = owners.setdefault(path.resolve(), job)
            if other is not job:
                raise ValueError(
                    f'{job.scan}: its output {path.name} is that of {other.scan}, too; rename '
                    'one, or give OUT as a text file with a path per line'
                )


def _listed(path: Path) -> list[Path]:
    """Read a text file with a path per line."""
    lines = (line.strip() for line in read_text(path).split('\n'))
    return [Path(line) for line in lines if line]


def _in_folder(folder: Path, out: Path, recursive: bool) -> list[Path]:
    """List the images of a folder, except outputs of earlier runs."""
    found = []
    root, written = folder.resolve(), out.resolve()
    for path in sorted(folder.rglob('*') if recursive else folder.iterdir()):
        relative = path.relative_to(folder)
        ours = _stem(path.name).endswith((LABELS, POSTERIORS))
        ours = ours or (written != root and written in (root / relative).parents)
        hidden = is_litter(path.name) or any(name.startswith('.') for name in relative.parts)
        if path.name.lower().endswith(READABLE) and not (path.is_dir() or ours or hidden):
            found.append(path)
    # A pair of files is listed by the one with the voxels.
    pairs = {path.with_suffix('') for path in found if path.suffix.lower() == '.img'}
    return [p for p in found if p.suffix.lower() != '.hdr' or p.with_suffix('') not in pairs]


def _stem(name: str) -> str:
    end = max((end for end in READABLE if name.lower().endswith(end)), key=len, default='')
    return name[: len(name) - len(end)]


def _volumes_on_disk(job: Job, made_by: dict[str, Any]) -> dict[str, float | None] | None:
    """Return the volumes of a scan whose outputs are complete and up to date; else None."""
    noted = read_marker(job.record)
    if not noted or is_broken_seal(job.record, noted):
        return None
    outputs = noted['Outputs']
    if any(noted.get(key) != value for key, value in made_by.items()):
        return None
    # The label map has parcels in the place of the cortex, or it has not.
    if _PARCELS in noted and _PARCELS not in made_by:
        return None
    if any(kind not in outputs or fault(p, outputs[kind]) for kind, p in job.outputs.items()):
        return None
    changed = fault(job.scan, {'SHA256': noted['InputSHA256']}, verify=True)
    return None if changed else noted['Volumes']


def _segment_all(
    segmenter: Segmenter, jobs: list[Job], args: argparse.Namespace, made_by: dict[str, Any]
) -> Iterator[tuple[Job, Future[tuple[dict[str, float | None], str]]]]:
    """Segment scans; meanwhile the next one is read, and the outputs of the last one are written.

    Yields
    ------
    job : Job
    writing : future of (dict, str)
        Volumes, and a line for the log; or why the scan could not be segmented.
    """
    scans = read_ahead([job.scan for job in jobs], prefetch=1)
    last = None
    with ThreadPoolExecutor(1) as writer:
        for job, (_, reading) in zip(jobs, scans, strict=True):
            outcome = _segment_one(segmenter, reading, args)
            if last is not None:
                yield last
            labels = segmenter.labels
            last = job, writer.submit(_write_one, job, outcome, made_by, labels)
            del outcome, reading  # large, and not needed while the next one is segmented
        if last is not None:
            yield last


def _segment_one(
    segmenter: Segmenter, reading: Future[Volume], args: argparse.Namespace
) -> tuple[Volume, Found] | Exception:
    """Segment a scan; return why it could not be segmented, if that concerns it alone."""
    try:
        scan = reading.result()
        return scan, segment(segmenter, scan, args)
    except (ValueError, MemoryError, RuntimeError) as error:
        return error


def _write_one(
    job: Job,
    outcome: tuple[Volume, Found] | Exception,
    made_by: dict[str, Any],
    labels: tuple[int, ...],
) -> tuple[dict[str, float | None], str]:
    """Write the outputs of a scan, or raise its error.

    Returns
    -------
    volumes : dict of str to float or None
    note : str
        A line for the log.
    """
    if isinstance(outcome, Exception):
        raise outcome
    scan, found = outcome
    job.record.unlink(missing_ok=True)
    write_maps(found, scan, job.labels, job.posteriors, labels)
    volumes = {row['name']: row.get('volume_mm3') for row in measure(found, scan)}
    noted = {
        'Scan': str(job.scan),
        'InputSHA256': sha256(job.scan),
        **made_by,
        'Volumes': volumes,
        'Outputs': {kind: record(path) for kind, path in job.outputs.items()},
    }
    write_text(job.record, seal(noted))
    return volumes, f'{job.name}: segmented in {found.seconds:.1f} s on {found.device}'


def _why(error: Exception, job: Job) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if is_out_of_memory(error):
        return f'{job.scan}: out of memory; use a machine with more'
    raise error


def _write_volumes(
    args: argparse.Namespace,
    jobs: list[Job],
    volumes: dict[Job, dict[str, float | None]],
    n_labels: int,
) -> None:
    """Write a row per scan; rows of failed ones are empty."""
    names = [label.name for label in channels_of(n_labels) if label.index]
    names += [label.name for label in parcel_labels() if args.parc]
    rows = ({'scan': job.name, **volumes.get(job, {})} for job in jobs)
    write_table(args.volumes, ['scan', *names, TOTAL_NAME], rows)
