"""What became of every image: ``group_status.tsv``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from filelock import FileLock

from synthseg_bids.external.methods import OURS

from ..files import write_json, write_table
from .image_record import ImageRecord
from .names import parse_name
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


def write_status(out_dir: Path, images: Iterable[ImageRecord], seg: str = OURS) -> None:
    """Merge what became of the images of this run into ``group_status.tsv``.

    Images that this run did not look at keep their row, so that a dataset can be segmented a few
    participants at a time, by several processes too. So do images that were up to date: the row
    tells how they were segmented.

    Parameters
    ----------
    out_dir : Path
    images : iterable of ImageRecord
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
        for image in images:
            key = image.source, seg
            done = rows.get(key, {}).get('status') == 'done'
            if not (done and image.status == 'current'):
                rows[key] = {**_row(image), 'method': seg}
        write_table(path, STATUS_COLUMNS, [rows[key] for key in sorted(rows)])
    write_json(path.with_suffix('.json'), STATUS_COLUMNS)


def _row(image: ImageRecord) -> dict[str, object]:
    # Names of images that were left out may not have been parsed before.
    parsed = parse_name(PurePosixPath(image.relative).name)
    session = parsed[0].get('ses') if parsed else None
    seconds = image.provenance.get('Seconds')
    return {
        'participant_id': image.relative.partition('/')[0],
        'session_id': f'ses-{session}' if session else None,
        'source': image.source,
        'status': 'done' if image.status == 'current' else image.status,
        'reason': image.reason,
        'crash_file': image.crash_file,
        'seconds': None if seconds is None else round(seconds, 1),
        'device': image.provenance.get('Device', ''),
        'peak_gpu_mb': image.provenance.get('PeakGPUMemoryMB'),
    }
