"""The report of the whole dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .about import read_about
from .measures import plotted_measures
from .page import write_page
from .quality import short_note
from .reliability import read_reliability
from .structures import plain_name, side_of
from .tree import (
    Image,
    Row,
    count_images,
    group_table,
    key_of,
    number,
    read_images,
    read_json,
    session_page,
)

#: Largest number of rows of a table in the page; more would slow it down.
_MOST_OUTLIERS = 500
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
    volumes = group_table(out_dir, 'morph').by_image
    measured = [image for image in images if image.key in volumes]
    series = sorted({image.series for image in images if image.series})
    content = {
        'name': read_json(out_dir / 'dataset_description.json').get('Name', 'Group'),
        'counts': Counter(image.series for image in measured).most_common(),
        'numbers': _numbers(out_dir, images),
        'choices': {'status': _STATES, 'verdict': _VERDICTS, 'contrast': series},
        'images': _image_rows(out_dir, images),
        'has_dice': bool(group_table(out_dir, 'dice').rows),
        'charts': _charts(out_dir, measured),
        'outliers': _outliers(out_dir, images),
        'reliability': read_reliability(out_dir),
        **read_about(out_dir, images, run_uuid=run_uuid),
    }
    return write_page(out_dir / 'group.html', 'group.html.j2', content, scripts=['group.js'])


def _link_to(out_dir: Path, image: Image) -> str:
    """Return the relative address of an image in the report of its session or participant."""
    page = session_page(image)
    if not (image.session and (out_dir / page).exists()):
        page = f'{image.participant}.html'
    return f'{quote(page)}#{image.anchor}'


def _numbers(out_dir: Path, images: Sequence[Image]) -> list[tuple[Any, ...]]:
    """List the numbers shown in large type, with their names and details."""
    # What one method has segmented is done, and the worst verdict of all methods counts.
    states = count_images(
        ((image.source, image.state) for image in images), ('skipped', 'failed', 'done')
    )
    found = ((row['source'], row.get('verdict', '')) for row in group_table(out_dir, 'qc').rows)
    quality = count_images(found, _VERDICTS)
    unusual = group_table(out_dir, 'outliers').rows
    shown: list[tuple[Any, ...]] = [
        (len({image.participant for image in images}), 'participants', {}),
        (states.total(), 'images', {state: states[state] for state in _STATES}),
    ]
    if quality:
        counts = {verdict: quality[verdict] for verdict in _VERDICTS}
        shown.append((quality['pass'], 'passed quality control', counts))
    if unusual:
        name = f'images with unusual values ({len(unusual)} in all)'
        shown.append((len({row['source'] for row in unusual}), name, {}))
    overlaps = [number(row.get(MEAN_NAME)) for row in group_table(out_dir, 'dice').rows]
    if known := [dice for dice in overlaps if dice is not None]:
        shown.append((f'{sum(known) / len(known):.3f}', 'mean Dice with references', {}))
    return shown


def _image_rows(out_dir: Path, images: Sequence[Image]) -> list[dict[str, Any]]:
    # The first reference of an image counts.
    quality, morph, dice = (
        {key: rows[0] for key, rows in group_table(out_dir, kind).by_image.items()}
        for kind in ('qc', 'morph', 'dice')
    )
    unusual = Counter(key_of(row) for row in group_table(out_dir, 'outliers').rows)
    rows = []
    for image in images:
        volume = number(morph.get(image.key, {}).get(TOTAL_NAME))
        rows.append({
            'image': image,
            'link': _link_to(out_dir, image),
            'verdict': quality.get(image.key, {}).get('verdict', ''),
            'volume': None if volume is None else volume / 1000,
            'dice': number(dice.get(image.key, {}).get(MEAN_NAME)),
            'outliers': unusual[image.key],
            'note': short_note(out_dir, image),
        })  # fmt: skip
    return rows


def _charts(out_dir: Path, measured: Sequence[Image]) -> dict[str, Any]:
    """Gather the data of the charts."""
    measures = plotted_measures(out_dir, measured)
    if not measures:
        return {}
    contrasts = sorted({image.series for image in measured})
    shown = [
        [image.participant, image.title, contrasts.index(image.series), _link_to(out_dir, image)]
        for image in measured
    ]
    return {'contrasts': contrasts, 'images': shown, 'measures': measures}


def _outliers(out_dir: Path, images: Sequence[Image]) -> list[dict[str, Any]]:
    """List the outliers, the farthest first."""
    by_image = {image.key: image for image in images}
    rows = group_table(out_dir, 'outliers').rows
    worst = sorted(rows, key=lambda row: -abs(number(row['robust_z']) or 0))[:_MOST_OUTLIERS]
    shown = []
    for row in worst:
        image = by_image.get(key_of(row), Image(row['source']))
        shown.append({
            'image': image,
            'link': _link_to(out_dir, image),
            'what': _statistic(row),
            'value': number(row['value']),
            'typical': number(row['typical']),
            'scale': 1000 if row['table'] == 'morph' else 1,
            'z': number(row['robust_z']) or 0,
        })  # fmt: skip
    return shown


def _statistic(row: Row) -> str:
    name = row['statistic']
    if row['table'] != 'morph':
        return name.replace('_', ' ')
    side = side_of(name)
    return f'{plain_name(name)}{", " if side else ""}{side}'
