"""The report of one participant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median

from synthseg_bids.bids.atomic import write_text
from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measures import MEAN_NAME

from .about import methods_section, provenance_section
from .agreement import agreement_section
from .errors import errors_section
from .html import Html, column_heads, el, join, table
from .page import badge, build_page, section, tile
from .pictures import names_by_color, picture_block
from .quality import quality_block, read_quality
from .tree import (
    Image,
    label_map_sidecar,
    number,
    read_images,
    read_json,
    read_rows,
)
from .volumes import overlap_block, volume_block

_VERDICTS = ('fail', 'review', 'pass')


def write_subject_report(out_dir: Path, participant: str) -> Path:
    """Write the report of one participant: pictures, volumes, quality, agreement and errors.

    Parameters
    ----------
    out_dir : Path
        The output dataset, from which alone the report is made.
    participant : str
        With or without ``sub-``.

    Returns
    -------
    Path
        ``sub-<participant>.html``.
    """
    name = f'sub-{participant.removeprefix("sub-")}'
    images = [image for image in read_images(out_dir) if image.participant == name]
    verdicts = {image.source: read_quality(out_dir, image)[0] for image in images}
    segmented = [image for image in images if label_map_sidecar(out_dir, image)]
    content = [
        _lead(out_dir, name, images, verdicts),
        _overview(out_dir, images, verdicts, segmented),
        [_image_section(out_dir, image, verdicts[image.source]) for image in segmented],
        agreement_section(out_dir, name, segmented),
        errors_section(out_dir, images),
        methods_section(out_dir),
        provenance_section(out_dir, segmented),
        names_by_color(),
    ]
    page = build_page(
        f'{name} · SynthSeg report',
        _navigation(segmented, verdicts, join(content)),
        content,
        where=el('a', 'All participants', href='group.html'),
    )
    path = out_dir / f'{name}.html'
    write_text(path, page)
    return path


def _navigation(segmented: list[Image], verdicts: Mapping[str, str], content: str) -> list[Html]:
    """Link to the sections that there are."""
    links = [el('a', 'Overview', href='#overview'), el('p', 'Images', class_='group')]
    for image in segmented:
        dot = el('span', class_=f'dot {verdicts[image.source]}', aria_hidden='true')
        links.append(el('a', dot, image.title, href=f'#{image.anchor}'))
    links.append(el('p', 'Participant', class_='group'))
    for name, title in (
        ('agreement', 'Agreement'),
        ('errors', 'Not segmented'),
        ('methods', 'Methods'),
        ('provenance', 'Versions and settings'),
    ):
        if f' id="{name}"' in content:
            links.append(el('a', title, href=f'#{name}'))
    return links


def _lead(out_dir: Path, name: str, images: list[Image], verdicts: Mapping[str, str]) -> Html:
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
    out_dir: Path, images: list[Image], verdicts: Mapping[str, str], segmented: list[Image]
) -> Html:
    """Summarise all images in tiles and a table."""
    totals = {image.source: _totals(out_dir, image) for image in segmented}
    rows = []
    for image in images:
        shown = image.source in totals
        volume, dice = totals.get(image.source, (None, None))
        state = image.status.get('status', 'done')
        rows.append([
            el(
                'th',
                el('a', image.title, href=f'#{image.anchor}') if shown else image.title,
                scope='row',
                class_='title',
            ),
            badge(state),
            badge(verdicts[image.source]),
            el('td', '' if volume is None else f'{volume:.0f}', class_='num'),
            el('td', '' if dice is None else f'{dice:.3f}', class_='num'),
            el('td', image.status.get('seconds', ''), class_='num'),
            el('td', image.status.get('reason', ''), class_='notes'),
        ])  # fmt: skip
    numbers = ('Intracranial, ml', 'Mean Dice', 'Time, s')
    head = ['Image', 'Status', 'Quality', *column_heads(numbers), 'Notes']
    return join([
        _tiles(images, verdicts, list(totals.values())),
        section('overview', 'Images', table(head, rows)),
    ])  # fmt: skip


def _tiles(
    images: list[Image],
    verdicts: Mapping[str, str],
    totals: list[tuple[float | None, float | None]],
) -> Html:
    failed = sum(image.status.get('status') == 'failed' for image in images)
    tiles = [tile(len(totals), 'segmented', {'failed': failed})]
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
    morph = {row['name']: row for row in read_rows(out_dir / f'{image.stem}_morph.tsv')}
    total = number(morph.get(TOTAL_NAME, {}).get('volume_mm3'))
    overlaps = read_rows(out_dir / f'{image.stem}_dice.tsv')
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
