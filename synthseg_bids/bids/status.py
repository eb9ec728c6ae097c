"""What became of every image: ``group_status.tsv``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from synthseg_bids.external.methods import OURS

from ..files import write_json, write_table
from .names import bids_uri, parse_name
from .records import read_known
from .tables import METHOD

STATUS_COLUMNS = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a if there are none.'},
    'source': {'Description': 'BIDS URI of the image.'},
    'method': METHOD,
    'status': {
        'Description': 'Outcome of the last run that looked at the image.',
        'Levels': {
            'done': 'Segmented, by this run or an earlier one; all outputs exist.',
            'skipped': 'Not segmented on purpose.',
            'failed': 'Should have been segmented but was not.',
        },
    },
    'reason': {'Description': 'Why it was skipped or failed, or what was noted on the way.'},
    'crash_file': {'Description': 'Details of a failure, relative to the dataset.'},
    'seconds': {'Description': 'Time that the segmentation took.', 'Units': 's'},
    'device': {'Description': 'Device that the segmentation ran on.'},
    'peak_gpu_mb': {
        'Description': 'Most memory that was allocated on the GPU; n/a on the CPU.',
        'Units': 'MB',
    },
}


@dataclass
class Outcome:
    """What became of one image.

    Attributes
    ----------
    relative : str
        Path of the image relative to the raw dataset.
    status : str
        ``done``, ``skipped``, ``failed``, or ``current`` (up to date, nothing was done).
    reason : str
        One line; may hold a note when the status is ``done``.
    crash_file : str
        Relative to the output dataset.
    seconds : float or None
    device : str
    peak_gpu_mb : float or None
    """

    relative: str
    status: str
    reason: str = ''
    crash_file: str = ''
    seconds: float | None = None
    device: str = ''
    peak_gpu_mb: float | None = None


def write_status(out_dir: Path, outcomes: Iterable[Outcome], seg: str = OURS) -> None:
    """Merge the outcomes of this run into ``group_status.tsv``.

    Images that this run did not look at keep their row, so that a dataset can be segmented a few
    participants at a time, by several processes too. So do images that were up to date: the row
    tells how they were segmented.

    Parameters
    ----------
    out_dir : Path
    outcomes : iterable of Outcome
    seg : str
        Name of the segmentation; those of other methods keep their rows, too.
    """
    path = out_dir / 'group_status.tsv'
    lock = out_dir / 'logs' / '.status.lock'
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=60):
        rows: dict[tuple[str, str], dict[str, object]] = {}
        for row in read_known(path, ('source', 'status')):
            # Earlier versions knew one method.
            method = row.get('method', OURS)
            rows[row['source'], method] = {**row, 'method': method}
        for outcome in outcomes:
            key = bids_uri('raw', outcome.relative), seg
            done = rows.get(key, {}).get('status') == 'done'
            if not (done and outcome.status == 'current'):
                rows[key] = {**_row(outcome), 'method': seg}
        write_table(path, STATUS_COLUMNS, [rows[key] for key in sorted(rows)])
    write_json(path.with_suffix('.json'), STATUS_COLUMNS)


def _row(outcome: Outcome) -> dict[str, object]:
    parsed = parse_name(PurePosixPath(outcome.relative).name)
    session = parsed[0].get('ses') if parsed else None
    return {
        'participant_id': outcome.relative.partition('/')[0],
        'session_id': f'ses-{session}' if session else None,
        'source': bids_uri('raw', outcome.relative),
        'status': 'done' if outcome.status == 'current' else outcome.status,
        'reason': outcome.reason,
        'crash_file': outcome.crash_file,
        'seconds': None if outcome.seconds is None else round(outcome.seconds, 1),
        'device': outcome.device,
        'peak_gpu_mb': outcome.peak_gpu_mb,
    }
