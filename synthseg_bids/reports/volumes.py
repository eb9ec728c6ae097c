"""Volumes of one image beside those of the group, and its overlap with references."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.measure.overlap import MEAN_NAME

from .charts import FEWEST_FOR_BOX, FEWEST_TO_COMPARE, format_number, meter, strips
from .html import Html, column_heads, el, join, table
from .structures import Structure, structure_name, structures
from .tree import Image, Row, checked_rows, group_table, number


def volume_block(out_dir: Path, image: Image) -> Html:
    """Tabulate the volumes, each drawn against the images of the same contrast."""
    rows = {row['name']: row for row in checked_rows(out_dir / f'{image.stem}_morph.tsv')}
    ml = {
        name: value / 1000
        for name, row in rows.items()
        if (value := number(row['volume_mm3'])) is not None
    }
    if not ml:
        return Html('')
    group = group_table(out_dir, 'morph').volumes_ml.get(image.series, {})
    z_scores = _outliers(out_dir, image)
    total = ml.get(TOTAL_NAME)
    body = [_row(structure, ml, total, group, z_scores) for structure in structures()]
    if total is not None:
        body.append([
            el('th', 'Total intracranial', scope='row', class_='total'),
            el('td', format_number(total), class_='num total', colspan=2),
            el('td'), el('td', '100', class_='num'),
            el('td', strips([('total', total, group.get(TOTAL_NAME, np.empty(0)))], 'ml')),
        ])  # fmt: skip
    numbers = ('Left, ml', 'Right, ml', 'Asymmetry, %', '% of intracranial')
    n = len(group.get(TOTAL_NAME, ()))
    head = [
        'Structure',
        *column_heads(numbers),
        f'Among {n} {image.series} images of the dataset' if n >= FEWEST_TO_COMPARE else '',
    ]
    return join([el('h3', 'Volumes'), _key(n), table(head, body)])


def _row(
    structure: Structure,
    ml: dict[str, float],
    total: float | None,
    group: dict[str, np.ndarray],
    z_scores: dict[str, float],
) -> list[Html]:
    names = [label.name for label in structure.labels]
    values = [ml.get(name) for name in names]
    known = [value for value in values if value is not None]
    share = format_number(100 * sum(known) / total) if total and known else ''
    if len(names) == 2:
        cells = [_volume(v, z_scores.get(n)) for v, n in zip(values, names, strict=True)]
        cells.append(el('td', _asymmetry(*values), class_='num'))
    else:
        cells = [_volume(values[0], z_scores.get(names[0]), colspan=2), el('td')]
    lanes = [
        (side, value, group.get(name, np.empty(0)))
        for side, value, name in zip(('left', 'right'), values, names, strict=False)
    ]
    if len(lanes) == 1:
        lanes = [(structure.title, *lanes[0][1:])]
    return [
        structure_name(structure),
        *cells,
        el('td', share, class_='num'),
        el('td', strips(lanes, 'ml')),
    ]


def _volume(value: float | None, z: float | None, colspan: int | None = None) -> Html:
    if z is None:
        return el('td', format_number(value), class_='num', colspan=colspan)
    side = 'above' if z > 0 else 'below'
    text = f'{abs(z):.1f} robust standard deviations {side} the group'
    arrow = el('span', ' ▲' if z > 0 else ' ▼', title=text, role='img', aria_label=text)
    return el('td', format_number(value), arrow, class_='num flag-review', colspan=colspan)


def _asymmetry(left: float | None, right: float | None) -> str:
    if left is None or right is None or left + right == 0:
        return ''
    return f'{200 * (left - right) / (left + right):+.1f}'


def _outliers(out_dir: Path, image: Image) -> dict[str, float]:
    """Return the robust z of the structures that are outliers."""
    found = {}
    for row in group_table(out_dir, 'outliers').by_image.get(image.key, ()):
        z = number(row['robust_z'])
        if row['table'] == 'morph' and z is not None:
            found[row['statistic']] = z
    return found


def _key(n: int) -> Html:
    """Explain the marks of the last column."""
    if n < FEWEST_TO_COMPARE:
        return el('p', 'Too few images of this contrast to compare with.',
                  class_='quiet small')  # fmt: skip
    diamond = '<path class="marker" d="M4 8l5-5 5 5-5 5z"/>'
    marks = [(f'<svg width="18" height="16">{diamond}</svg>', 'this image')]
    if n < FEWEST_FOR_BOX:
        dot = '<path class="dots" d="M9 8h0"/>'
        marks.append((f'<svg width="18" height="16">{dot}</svg>', 'every image'))
    else:
        shapes = (
            '<rect class="band" x="1" y="5" width="38" height="6" rx="3"/>'
            '<rect class="box" x="12" y="5" width="16" height="6"/>'
            '<line class="median" x1="20" x2="20" y1="3" y2="13"/>'
        )
        text = 'median, middle half and 5th to 95th percentile'
        marks.append((f'<svg width="40" height="16">{shapes}</svg>', text))
    marks.append(('', 'left above right; asymmetry: (left - right) / mean'))
    return el('p', [el('span', Html(svg), text) for svg, text in marks], class_='key')


def overlap_block(out_dir: Path, image: Image) -> Html:
    """Tabulate the Dice overlap with every reference."""
    by_reference: dict[str, dict[str, Row]] = {}
    for row in checked_rows(out_dir / f'{image.stem}_dice.tsv'):
        by_reference.setdefault(row['reference'], {})[row['name']] = row
    return join(_overlap(name, rows) for name, rows in by_reference.items())


def _overlap(reference: str, rows: dict[str, Row]) -> Html:
    body = []
    for structure in structures():
        found = [rows[label.name] for label in structure.labels if label.name in rows]
        values = [number(row['dice']) for row in found]
        if not any(value is not None for value in values):
            continue
        columns = ('volume_mm3', 'reference_volume_mm3')
        ours, theirs = (sum(number(row[c]) or 0 for row in found) for c in columns)
        cells = [
            el('td', meter(value, '' if value is None else f'{value:.3f}'),
               colspan=3 - len(values))
            for value in values
        ]  # fmt: skip
        off = f'{100 * (ours - theirs) / theirs:+.1f}' if theirs else ''
        body.append([structure_name(structure), *cells, el('td', off, class_='num')])
    mean = number(rows.get(MEAN_NAME, {}).get('dice'))
    said = '' if mean is None else f': {mean:.3f} on average over the 12 structures of the paper'
    title = el('h3', 'Dice overlap with the reference ', el('q', reference), said)
    last = column_heads(['Volume difference, %'])
    content = table(['Structure', 'Left', 'Right', *last], body)
    return join([title, el('details', el('summary', 'Every structure'), content, open=True)])
