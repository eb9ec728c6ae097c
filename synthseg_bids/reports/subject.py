"""The report of one participant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Any

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .about import read_about
from .agreement import read_agreement
from .changes import read_changes
from .page import write_page
from .pictures import legend, names_by_color, read_picture
from .quality import describe_quality, read_quality, short_note
from .structures import parcels, structures
from .tree import (
    Image,
    checked_rows,
    count_images,
    label_map_sidecar,
    number,
    read_images,
    read_json,
    session_page,
)
from .volumes import describe_overlaps, describe_volumes

_VERDICTS = ('pass', 'review', 'fail')


def write_subject_report(
    out_dir: Path, participant: str, most_sessions: float = inf, run_uuid: str = ''
) -> Path:
    """Write the report of one participant: pictures, volumes, quality, agreement and errors.

    Where there are many sessions, each has a report of its own with the pictures, volumes and
    quality of its images, and that of the participant links to them.

    Parameters
    ----------
    out_dir : Path
        The output dataset, from which alone the report is made.
    participant : str
        With or without ``sub-``.
    most_sessions : float
        With more sessions than this, each has a report of its own.
    run_uuid : str
        Run whose settings and crashes are shown (default: settings of the last one).

    Returns
    -------
    Path
        ``sub-<participant>.html``.
    """
    name = f'sub-{participant.removeprefix("sub-")}'
    images = read_images(out_dir).get(name, [])
    by_page: dict[str, list[Image]] = {}
    for image in images:
        if image.session:
            by_page.setdefault(session_page(image), []).append(image)
    if len(by_page) <= most_sessions:
        by_page = {}
    for page, of_session in by_page.items():
        _write_page(out_dir, page, of_session, set(), run_uuid)
    # The folder is not searched for reports, since it holds those of all participants.
    folders = {f'{name}_{folder.name}.html' for folder in (out_dir / name).glob('ses-*')}
    sessions = {session_page(image) for image in images if image.session}
    for page in (folders | sessions) - by_page.keys():
        (out_dir / page).unlink(missing_ok=True)
    # Written last, since the next run compares its time with that of the outputs.
    return _write_page(out_dir, f'{name}.html', images, by_page.keys(), run_uuid)


def _write_page(
    out_dir: Path, page: str, images: list[Image], others: Collection[str], run_uuid: str
) -> Path:
    """Write a report of some images; those with a page of their own are only listed."""
    title = page.removesuffix('.html').replace('_', ' · ')
    participant = title.partition(' ')[0]
    segmented = [image for image in images if label_map_sidecar(out_dir, image)]
    rows = [_overview_row(out_dir, image, image in segmented, others) for image in images]
    verdicts = Counter(row['verdict'] for row in rows)
    content = {
        'title': title,
        'participant': participant,
        'is_part': page != f'{participant}.html',
        'worst': next((verdict for verdict in _VERDICTS[::-1] if verdicts[verdict]), ''),
        'lead': _lead(out_dir, images),
        'numbers': _numbers(rows),
        'overview': rows,
        'images': [
            _describe(out_dir, row['image'], row['verdict'])
            for row in rows
            if row['link'].startswith('#')
        ],
        'label_names': names_by_color(),
        'changes': {} if page != f'{participant}.html' else read_changes(out_dir, participant),
        'agreement': read_agreement(out_dir, participant, segmented),
        **read_about(out_dir, images, segmented, run_uuid),
    }
    return write_page(out_dir / page, 'subject.html.j2', content)


def _lead(out_dir: Path, images: list[Image]) -> str:
    dataset = read_json(out_dir / 'dataset_description.json').get('Name', '')
    sessions = {image.session for image in images if image.session}
    n_images = len({image.source for image in images})
    count = f'{n_images} image{"s" if n_images != 1 else ""}'
    if sessions:
        count += f' in {len(sessions)} session{"s" if len(sessions) != 1 else ""}'
    return f'{dataset} · {count}' if dataset else count


def _overview_row(
    out_dir: Path, image: Image, segmented: bool, others: Collection[str]
) -> dict[str, Any]:
    """Summarise an image, with a link to its section if it is segmented."""
    page = session_page(image) if session_page(image) in others else ''
    volume, dice = _totals(out_dir, image) if segmented else (None, None)
    return {
        'image': image,
        'verdict': read_quality(out_dir, image)[0],
        'link': f'{page}#{image.anchor}' if segmented else '',
        'volume': volume,
        'dice': dice,
        'note': short_note(out_dir, image),
    }


def _numbers(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """List the numbers shown in large type, with their names and details."""
    sources = [row['image'].source for row in rows]
    states = ('done' if row['link'] else row['image'].state for row in rows)
    ended = count_images(zip(sources, states, strict=True), ('failed', 'done'))
    parts = {state: ended[state] for state in ('done', 'failed')} if ended['failed'] else {}
    shown: list[tuple[Any, ...]] = [(ended['done'], 'segmented', parts)]
    found = zip(sources, (row['verdict'] for row in rows), strict=True)
    if verdicts := count_images(found, _VERDICTS):
        counts = {verdict: verdicts[verdict] for verdict in _VERDICTS}
        shown.append((verdicts['pass'], 'passed quality control', counts))
    volumes = [row['volume'] for row in rows if row['volume'] is not None]
    if volumes:
        name = 'total intracranial volume' + (', median' if len(volumes) > 1 else '')
        shown.append((f'{median(volumes):.0f} ml', name, {}))
    overlaps = [row['dice'] for row in rows if row['dice'] is not None]
    if overlaps:
        shown.append((f'{mean(overlaps):.3f}', 'mean Dice with references', {}))
    return shown


def _totals(out_dir: Path, image: Image) -> tuple[float | None, float | None]:
    """Return the intracranial volume in ml and the mean Dice with the first reference."""
    morph = {row['name']: row for row in checked_rows(out_dir / f'{image.stem}_morph.tsv')}
    total = number(morph.get(TOTAL_NAME, {}).get('volume_mm3'))
    overlaps = checked_rows(out_dir / f'{image.stem}_dice.tsv')
    means = [number(row['dice']) for row in overlaps if row['name'] == MEAN_NAME]
    return None if total is None else total / 1000, means[0] if means else None


def _describe(out_dir: Path, image: Image, verdict: str) -> dict[str, Any]:
    """Gather what ``image.html.j2`` shows."""
    volumes = describe_volumes(out_dir, image)
    # The same structures in the legend and in the table.
    shown = [row['structure'] for row in volumes['rows']] if volumes else structures()
    return {
        'image': image,
        'verdict': verdict,
        'quality': describe_quality(out_dir, image),
        'picture': read_picture(out_dir, image),
        'legends': {'dseg': legend(shown), 'parcels': legend(parcels())},
        'volumes': volumes,
        'overlaps': describe_overlaps(out_dir, image),
    }
