"""The report of the whole dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.files import write_text
from synthseg_bids.measure.overlap import MEAN_NAME

from .about import methods_section, provenance_section
from .charts import format_number
from .errors import errors_section
from .html import Html, column_heads, el, embedded_json, join, table
from .measures import plotted_measures
from .page import badge, build_page, section, tile
from .quality import short_note
from .reliability import reliability_section
from .structures import plain_name
from .tree import (
    Image,
    Key,
    Row,
    group_table,
    key_of,
    number,
    read_images,
    read_json,
    session_page,
)

#: Rows of a table that are put into the page; more of them would only slow it down.
_MOST_OUTLIERS = 500
#: The script shows as many rows until asked for all; it need not lay out the others first.
_SHOWN_ROWS = 100
_CHART_HELP = (
    'Every dot is an image: point at it for its name, click it for its report. Boxes and lines: '
    'quartiles, median, 5th and 95th percentile.'
)
_STATES = ('done', 'skipped', 'failed')
_VERDICTS = ('pass', 'review', 'fail')


def write_group_report(out_dir: Path, run_uuid: str = '') -> Path:
    """Write the report of the dataset: counts, distributions, outliers, failures, reliability.

    Parameters
    ----------
    out_dir : Path
        The output dataset, from which alone the report is made.
    run_uuid : str
        Run whose settings and crashes are shown (default: settings of the last one).

    Returns
    -------
    Path
        ``group.html``.
    """
    images = [image for found in read_images(out_dir).values() for image in found]
    name = read_json(out_dir / 'dataset_description.json').get('Name', 'Group')
    content = [
        _lead(out_dir, str(name), images),
        _tiles(out_dir, images),
        _images_section(out_dir, images),
        _distributions(out_dir, images),
        _outliers(out_dir, images),
        reliability_section(out_dir),
        errors_section(out_dir, images, run_uuid),
        methods_section(out_dir),
        provenance_section(out_dir, run_uuid=run_uuid),
    ]
    page = build_page(
        f'{name} · SynthSeg group report',
        _navigation(join(content)),
        content,
        where='All participants',
        scripts=['group.js'],
    )
    path = out_dir / 'group.html'
    write_text(path, page)
    return path


def _link_to(out_dir: Path, image: Image) -> str:
    """Return the relative address of an image in the report of its session or participant."""
    page = session_page(image)
    if not (image.session and (out_dir / page).exists()):
        page = f'{image.participant}.html'
    return f'{quote(page)}#{image.anchor}'


def _navigation(content: str) -> list[Html]:
    sections = {
        'images': 'Images',
        'distributions': 'Distributions',
        'outliers': 'Outliers',
        'reliability': 'Agreement and reliability',
        'errors': 'Not segmented',
        'methods': 'Methods',
        'provenance': 'Versions and settings',
    }
    return [
        el('a', title, href=f'#{name}')
        for name, title in sections.items()
        if f' id="{name}"' in content
    ]


def _measured(out_dir: Path, images: Sequence[Image]) -> list[Image]:
    volumes = group_table(out_dir, 'morph').by_image
    return [image for image in images if image.key in volumes]


def _lead(out_dir: Path, name: str, images: Sequence[Image]) -> Html:
    contrasts = Counter(image.series for image in _measured(out_dir, images))
    listed = ', '.join(f'{n} {contrast}' for contrast, n in contrasts.most_common())
    return el('div', el('h1', name), el('p', listed), class_='lead')


def _tiles(out_dir: Path, images: Sequence[Image]) -> Html:
    states = Counter(image.status.get('status', 'done') for image in images)
    quality = Counter(row.get('verdict', '') for row in group_table(out_dir, 'qc').rows)
    unusual = group_table(out_dir, 'outliers').rows
    tiles = [
        tile(len({image.participant for image in images}), 'participants'),
        tile(len(images), 'images', {state: states[state] for state in _STATES}),
    ]
    if quality:
        tiles.append(tile(quality['pass'], 'passed quality control',
                          {verdict: quality[verdict] for verdict in _VERDICTS}))  # fmt: skip
    if unusual:
        rows = len({key_of(row) for row in unusual})
        tiles.append(tile(rows, f'images with unusual values ({len(unusual)} in all)'))
    overlaps = [number(row.get(MEAN_NAME)) for row in group_table(out_dir, 'dice').rows]
    if known := [dice for dice in overlaps if dice is not None]:
        tiles.append(tile(f'{sum(known) / len(known):.3f}', 'mean Dice with references'))
    return el('div', tiles, class_='tiles')


def _images_section(out_dir: Path, images: Sequence[Image]) -> Html:
    quality = _by_image(out_dir, 'qc')
    morph, dice = _by_image(out_dir, 'morph'), _by_image(out_dir, 'dice')
    unusual = Counter(key_of(row) for row in group_table(out_dir, 'outliers').rows)
    rows: list[Html] = []
    for image in images:
        status = image.status.get('status', 'done')
        judged = quality.get(image.key, {})
        verdict = judged.get('verdict', '')
        volume = number(morph.get(image.key, {}).get(TOTAL_NAME))
        cells = [
            el('th', el('a', image.participant, href=_link_to(out_dir, image)), scope='row'),
            el('td', image.title, class_='title'),
            el('td', badge(status)),
            el('td', badge(verdict), data_value=_rank(verdict)),
            el('td', '' if volume is None else f'{volume / 1000:.0f}', class_='num'),
        ]
        if dice:
            overlap = number(dice.get(image.key, {}).get(MEAN_NAME))
            cells.append(el('td', '' if overlap is None else f'{overlap:.3f}', class_='num'))
        cells += [
            el('td', unusual[image.key] or '', class_='num'),
            el('td', image.status.get('seconds', ''), class_='num'),
            el('td', short_note(out_dir, image), class_='notes'),
        ]
        rows.append(
            el(
                'tr',
                cells,
                data_status=status,
                data_verdict=verdict,
                data_contrast=image.series,
                hidden=len(rows) >= _SHOWN_ROWS,
            )
        )
    numbers = ['Intracranial, ml', *(['Mean Dice'] if dice else []), 'Outliers', 'Time, s']
    titles = ['Participant', 'Image', 'Status', 'Quality']
    head = [
        *(el('th', title, scope='col') for title in titles),
        *column_heads(numbers),
        el('th', 'Notes', scope='col'),
    ]
    whole = table(head, rows, class_='sortable', box='tall')
    return section('images', 'Images', el('div', _filters(images), whole, data_filtered=True))


def _by_image(out_dir: Path, kind: str) -> dict[Key, Row]:
    """Return one row per image of a group table; the first reference counts."""
    by_image = group_table(out_dir, kind).by_image
    return {key: rows[0] for key, rows in by_image.items()}


def _rank(verdict: str) -> str:
    """Sort the worst first."""
    return str(2 - _VERDICTS.index(verdict)) if verdict in _VERDICTS else ''


def _filters(images: Sequence[Image]) -> Html:
    choices = {
        'status': list(_STATES),
        'verdict': list(_VERDICTS),
        'contrast': sorted({image.series for image in images if image.series}),
    }
    search = el('input', type='search', placeholder='Search: participant, session, note …',
                aria_label='Search the table')  # fmt: skip
    selects = [
        el(
            'select',
            el('option', f'Any {name}', value=''),
            [el('option', value) for value in values],
            name=name,
            aria_label=name.capitalize(),
        )
        for name, values in choices.items()
    ]
    shown = el('output', class_='quiet small', aria_live='polite')
    return el('div', search, selects, shown, class_='filters')


def _distributions(out_dir: Path, images: Sequence[Image]) -> Html:
    """Leave places for the charts and embed what they show."""
    measured = _measured(out_dir, images)
    measures = plotted_measures(out_dir, measured)
    if not measures:
        return Html('')
    contrasts = sorted({image.series for image in measured})
    shown = [
        [image.participant, image.title, contrasts.index(image.series), _link_to(out_dir, image)]
        for image in measured
    ]
    data = {'contrasts': contrasts, 'images': shown, 'measures': measures}
    relative = el('input', type='checkbox', id='relative')
    return section(
        'distributions',
        'Distributions',
        el(
            'div',
            el('label', 'Show ', el('select', id='measure')),
            el('label', relative, ' as % of intracranial volume', id='relative-label'),
            class_='filters chart-choice',
        ),
        el('h3', id='chart-title', aria_live='polite'),
        el('div', id='chart', class_='chart'),
        el('p', _CHART_HELP, class_='quiet small'),
        el('h3', 'All structures', class_='chart-choice'),
        el('div', id='small-multiples', class_='small-multiples'),
        el('noscript', el('p', 'The charts need JavaScript; their data are in group_morph.tsv, '
                          'group_qc.tsv and group_dice.tsv.', class_='note')),
        embedded_json('group-data', data),
    )  # fmt: skip


def _outliers(out_dir: Path, images: Sequence[Image]) -> Html:
    rows = group_table(out_dir, 'outliers').rows
    if not rows:
        return Html('')
    by_image = {image.key: image for image in images}
    worst = sorted(rows, key=lambda row: -abs(number(row['robust_z']) or 0))[:_MOST_OUTLIERS]
    body = []
    for row in worst:
        image = by_image.get(key_of(row), Image(row['source']))
        scale = 1000 if row['table'] == 'morph' else 1
        value, typical = (number(row[name]) for name in ('value', 'typical'))
        z = number(row['robust_z']) or 0
        body.append([
            el('th', el('a', image.participant, href=_link_to(out_dir, image)), scope='row'),
            image.title,
            _statistic(row),
            *(el('td', '' if v is None else format_number(v / scale), class_='num',
                 data_value=v) for v in (value, typical)),
            el('td', f'{z:+.1f}', class_='num', data_value=abs(z)),
        ])  # fmt: skip
    head = ['Participant', 'Image', 'What']
    numbers = ('Value', 'Typical', 'Robust z')
    whole = table(
        [*head, *column_heads(numbers)],
        body,
        class_='sortable',
        box='tall',
    )
    return section(
        'outliers', 'Outliers', whole,
        lead='Values far from those of the other images of the same contrast, the farthest first. '
        'Volumes in ml.',
    )  # fmt: skip


def _statistic(row: Row) -> str:
    name = row['statistic']
    if row['table'] != 'morph':
        return name.replace('_', ' ')
    side = next((side for side in ('Left', 'Right') if name.startswith(f'{side}-')), '')
    return f'{plain_name(name)}{", " if side else ""}{side.lower()}'
