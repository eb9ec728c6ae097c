"""The report of one participant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from math import inf
from pathlib import Path
from statistics import mean, median
from urllib.parse import quote

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.files import write_text
from synthseg_bids.measure.overlap import MEAN_NAME

from .about import methods_section, provenance_section
from .agreement import agreement_section
from .errors import errors_section
from .html import Html, column_heads, el, join, table
from .page import badge, build_page, section, tile
from .pictures import names_by_color, picture_block
from .quality import quality_block, read_quality, short_note
from .tree import (
    Image,
    Key,
    checked_rows,
    label_map_sidecar,
    number,
    read_images,
    read_json,
    session_page,
)
from .volumes import overlap_block, volume_block

_VERDICTS = ('fail', 'review', 'pass')


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
    # Not looked for among the reports: those of all participants lie in one folder.
    folders = {f'{name}_{folder.name}.html' for folder in (out_dir / name).glob('ses-*')}
    sessions = {session_page(image) for image in images if image.session}
    for page in (folders | sessions) - by_page.keys():
        (out_dir / page).unlink(missing_ok=True)
    # Last of all: by its time the next run tells whether the reports are up to date.
    return _write_page(out_dir, f'{name}.html', images, by_page.keys(), run_uuid)


def _write_page(
    out_dir: Path, page: str, images: list[Image], others: Collection[str], run_uuid: str
) -> Path:
    """Write the report of some images, except for those that have theirs on other pages."""
    title = page.removesuffix('.html').replace('_', ' · ')
    participant = title.partition(' ')[0]
    verdicts = {image.key: read_quality(out_dir, image)[0] for image in images}
    segmented = [image for image in images if label_map_sidecar(out_dir, image)]
    links = {
        image.key: f'{session_page(image) if session_page(image) in others else ""}#{image.anchor}'
        for image in segmented
    }
    content = [
        _lead(out_dir, title, images, verdicts),
        _overview(out_dir, images, verdicts, links),
        [
            _image_section(out_dir, image, verdicts[image.key])
            for image in segmented
            if links[image.key].startswith('#')
        ],
        agreement_section(out_dir, participant, segmented),
        errors_section(out_dir, images, run_uuid),
        methods_section(out_dir),
        provenance_section(out_dir, segmented, run_uuid),
        names_by_color(),
    ]
    where: list[object] = [el('a', 'All participants', href='group.html')]
    if page != f'{participant}.html':
        where += [' / ', el('a', participant, href=f'{quote(participant)}.html')]
    path = out_dir / page
    text = build_page(
        f'{title} · SynthSeg report',
        _navigation(segmented, verdicts, links, join(content)),
        content,
        where=where,
    )
    write_text(path, text)
    return path


def _navigation(
    segmented: list[Image], verdicts: Mapping[Key, str], links: Mapping[Key, str], content: str
) -> list[Html]:
    """Link to the images, and to the sections that there are."""
    shown = [el('a', 'Overview', href='#overview'), el('p', 'Images', class_='group')]
    for image in segmented:
        dot = el('span', class_=f'dot {verdicts[image.key]}', aria_hidden='true')
        shown.append(el('a', dot, image.title, href=links[image.key]))
    shown.append(el('p', 'Participant', class_='group'))
    for name, title in (
        ('agreement', 'Agreement'),
        ('errors', 'Not segmented'),
        ('methods', 'Methods'),
        ('provenance', 'Versions and settings'),
    ):
        if f' id="{name}"' in content:
            shown.append(el('a', title, href=f'#{name}'))
    return shown


def _lead(out_dir: Path, name: str, images: list[Image], verdicts: Mapping[Key, str]) -> Html:
    found = {*verdicts.values()}
    worst = next((verdict for verdict in _VERDICTS if verdict in found), '')
    dataset = read_json(out_dir / 'dataset_description.json').get('Name', '')
    sessions = {image.session for image in images if image.session}
    count = f'{len(images)} image{"s" if len(images) != 1 else ""}'
    if sessions:
        count += f' in {len(sessions)} session{"s" if len(sessions) != 1 else ""}'
    return el(
        'div', el('h1', name), badge(worst), el('p', dataset, ' · ' if dataset else '', count),
        class_='lead',
    )  # fmt: skip


def _overview(
    out_dir: Path, images: list[Image], verdicts: Mapping[Key, str], links: Mapping[Key, str]
) -> Html:
    """Summarise all images in tiles and a table, with links to those that are segmented."""
    totals = {image.key: _totals(out_dir, image) for image in images if image.key in links}
    rows = []
    for image in images:
        link = links.get(image.key)
        volume, dice = totals.get(image.key, (None, None))
        state = image.status.get('status', 'done')
        rows.append([
            el(
                'th',
                el('a', image.title, href=link) if link else image.title,
                scope='row',
                class_='title',
            ),
            badge(state),
            badge(verdicts[image.key]),
            el('td', '' if volume is None else f'{volume:.0f}', class_='num'),
            el('td', '' if dice is None else f'{dice:.3f}', class_='num'),
            el('td', image.status.get('seconds', ''), class_='num'),
            el('td', short_note(out_dir, image), class_='notes'),
        ])  # fmt: skip
    numbers = ('Intracranial, ml', 'Mean Dice', 'Time, s')
    head = ['Image', 'Status', 'Quality', *column_heads(numbers), 'Notes']
    return join([
        _tiles(images, verdicts, list(totals.values())),
        section('overview', 'Images', table(head, rows)),
    ])  # fmt: skip


def _tiles(
    images: list[Image],
    verdicts: Mapping[Key, str],
    totals: list[tuple[float | None, float | None]],
) -> Html:
    failed = sum(image.status.get('status') == 'failed' for image in images)
    counts = {'done': len(totals), 'failed': failed} if failed else None
    tiles = [tile(len(totals), 'segmented', counts)]
    quality = Counter(verdict for verdict in verdicts.values() if verdict)
    if quality:
        counts = {verdict: quality[verdict] for verdict in reversed(_VERDICTS)}
        tiles.append(tile(quality['pass'], 'passed quality control', counts))
    volumes = sorted(volume for volume, _ in totals if volume is not None)
    if volumes:
        name = 'total intracranial volume' + (', median' if len(volumes) > 1 else '')
        tiles.append(tile(f'{median(volumes):.0f} ml', name))
    overlaps = [dice for _, dice in totals if dice is not None]
    if overlaps:
        tiles.append(tile(f'{mean(overlaps):.3f}', 'mean Dice with references'))
    return el('div', tiles, class_='tiles')


def _totals(out_dir: Path, image: Image) -> tuple[float | None, float | None]:
    """Return the intracranial volume in ml and the mean Dice with the first reference."""
    morph = {row['name']: row for row in checked_rows(out_dir / f'{image.stem}_morph.tsv')}
    total = number(morph.get(TOTAL_NAME, {}).get('volume_mm3'))
    overlaps = checked_rows(out_dir / f'{image.stem}_dice.tsv')
    means = [number(row['dice']) for row in overlaps if row['name'] == MEAN_NAME]
    return None if total is None else total / 1000, means[0] if means else None


def _image_section(out_dir: Path, image: Image, verdict: str) -> Html:
    return section(
        image.anchor,
        image.title,
        quality_block(out_dir, image),
        picture_block(out_dir, image),
        volume_block(out_dir, image),
        overlap_block(out_dir, image),
        badge=badge(verdict),
        lead=el('code', image.relative),
    )
