"""How well repeated images agree over the whole dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from synthseg_bids.bids.tables import TOTAL_NAME
from synthseg_bids.external.methods import OURS
from synthseg_bids.measure.overlap import MEAN_NAME

from .charts import dice_cell, difference_cell, variation_cell
from .html import Html, column_heads, el, join, table
from .page import section
from .structures import structure_name, structures
from .tree import Row, group_table, number, series_name

_LEAD = (
    'Agreement of the volumes and label maps of images that show the same brain: other contrasts '
    'of a session, and visits, between which the brain itself may change.'
)
#: Statistics of group_reliability.tsv that are shown, each with its title and colour scale.
_SHOWN: dict[str, tuple[str, Callable[[float | None], Html]]] = {
    'icc_2_1': ('Intraclass correlation of the volumes, ICC(2,1)', dice_cell),
    'cv': ('Coefficient of variation of the volumes within pairs, %', variation_cell),
    'mean_difference': ('Mean volume difference, second minus first, %', difference_cell),
}

Key = tuple[str, str, str]


def reliability_section(out_dir: Path) -> Html:
    """Show overlap by kind of pair, then the reliability of every structure."""
    by_pair: dict[Key, dict[str, Row]] = {}
    for row in group_table(out_dir, 'reliability').rows:
        by_pair.setdefault(_key(row), {})[row['name']] = row
    blocks = [_overlaps(out_dir)]
    blocks += [
        _by_structure(title, column, cell, by_pair) for column, (title, cell) in _SHOWN.items()
    ]
    return section('reliability', 'Agreement and reliability', blocks, lead=_LEAD)


def _overlaps(out_dir: Path) -> Html:
    """Summarise the Dice of the pairs of images, by what they have in common."""
    found: dict[Key, list[float]] = {}
    for row in group_table(out_dir, 'agreement').rows:
        value = number(row.get(MEAN_NAME))
        if row['statistic'] == 'dice' and value is not None:
            found.setdefault(_key(row), []).append(value)
    if not found:
        return Html('')
    body = []
    for (comparison, first, second), values in sorted(found.items()):
        p5, p50, p95 = np.percentile(values, (5, 50, 95))
        cells = [el('th', comparison, scope='row'), _pair(first, second)]
        cells += [el('td', len(values), class_='num')]
        body.append([*cells, *map(dice_cell, (p50, p5, p95))])
    shaded = ('Median', '5th percentile', '95th percentile')
    head = ['Comparison', 'Contrasts', *column_heads(['Pairs']), *column_heads(shaded, 'cell')]
    title = el('h3', 'Mean Dice of aligned label maps')
    return join([title, table(head, body, class_='heat')])


def _key(row: Row) -> Key:
    first, second = (series_name(row[f'contrast_{i}'], row.get('method') or OURS) for i in (1, 2))
    return row['comparison'], first, second


def _pair(first: str, second: str) -> str:
    return first if first == second else f'{first} ↔ {second}'


def _by_structure(
    title: str,
    column: str,
    cell: Callable[[float | None], Html],
    by_pair: dict[Key, dict[str, Row]],
) -> Html:
    rows: list[Sequence[object]] = [
        [
            structure_name(structure),
            *(
                cell(_mean(rows, [label.name for label in structure.labels], column))
                for rows in by_pair.values()
            ),
        ]
        for structure in structures()
    ]
    total = [cell(_mean(rows, [TOTAL_NAME], column)) for rows in by_pair.values()]
    rows.append([el('th', 'Total intracranial', scope='row'), *total])
    if not any('<td class="num cell"' in str(cell) for row in rows for cell in row):
        return Html('')
    head: list[object] = ['Structure']
    for (comparison, first, second), of_pair in by_pair.items():
        n = max(number(row['n_pairs']) or 0 for row in of_pair.values())
        name = f'{comparison}: {_pair(first, second)} (n = {n:.0f})'
        head += column_heads([name], 'cell')
    content = table(head, rows, class_='heat')
    return el('details', el('summary', title), content, open=column == 'icc_2_1')


def _mean(rows: dict[str, Row], names: list[str], column: str) -> float | None:
    values = [number(rows.get(name, {}).get(column)) for name in names]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
