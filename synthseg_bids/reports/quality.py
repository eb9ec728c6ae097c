"""Quality control of one image, in plain language."""

from __future__ import annotations

from pathlib import Path

from synthseg_bids.measure.qc import summarise

from .charts import format_number
from .html import Html, column_heads, el, join, table
from .page import badge
from .tree import Image, Row, checked_rows, group_table, number, read_json

_VERDICT = 'verdict'


def read_quality(out_dir: Path, image: Image) -> tuple[str, list[Row]]:
    """Return the verdict (empty if there is none) and the measures that led to it."""
    rows = checked_rows(out_dir / f'{image.stem}_qc.tsv') if image.stem else []
    verdict = next((row['value'] for row in rows if row['measure'] == _VERDICT), '')
    return verdict, [row for row in rows if row['measure'] != _VERDICT]


def short_note(out_dir: Path, image: Image) -> str:
    """Say in a line what is to be known of an image."""
    noted = image.status.get('reason', '')
    judged = group_table(out_dir, 'qc').by_image.get(image.key, [{}])[0]
    reasons = judged.get('reasons', '')
    if not reasons:
        return noted
    short = summarise(reasons)
    # Who saw the image segmented has noted the verdict, too.
    if reasons in noted:
        return noted.replace(reasons, short)
    return '; '.join(part for part in (f'{judged["verdict"]}: {short}', noted) if part)


def quality_block(out_dir: Path, image: Image) -> Html:
    """Say what was found, worst first, and list all measures."""
    verdict, rows = read_quality(out_dir, image)
    if not verdict:
        return Html('')
    reasons = sorted((row for row in rows if row['reason']), key=lambda row: row['flag'] != 'fail')
    if reasons:
        said: object = el('ul', [el('li', _sentence(row['reason'])) for row in reasons])
    else:
        said = el('p', 'Nothing stands out in header, field of view, intensities, confidence and '
                  'volumes.')  # fmt: skip
    dictionary = read_json(out_dir / f'{image.stem}_qc.json').get('measure', {})
    explanations = dictionary.get('Levels', {})
    measures = [
        [
            el('th', row['measure'].replace('_', ' '), scope='row'),
            el('td', _value(row['value']), class_=f'num flag-{row["flag"] or "none"}'),
            badge(row['flag']),
            el('td', explanations.get(row['measure'], ''), class_='notes'),
        ]
        for row in rows
    ]
    return join([
        el('div', said, _unusual(out_dir, image), class_=f'note {verdict}'),
        el('details', el('summary', f'All {len(rows)} measures'),
           table(['Measure', *column_heads(['Value']), '', 'Meaning'], measures),
           class_='on-screen'),
    ])  # fmt: skip


def _unusual(out_dir: Path, image: Image) -> Html | None:
    """List the measures that lie far from those of the other images of the contrast."""
    items = []
    for row in group_table(out_dir, 'outliers').by_image.get(image.key, ()):
        if row['table'] == 'qc':
            value, typical, z = (
                format_number(number(row[name])) for name in ('value', 'typical', 'robust_z')
            )
            measure = row['statistic'].replace('_', ' ')
            items.append(el('li', f'{measure}: {value}, typical is {typical} (robust z {z})'))
    if not items:
        return None
    title = f'Unusual among the {image.series} images of the dataset, whatever the limits:'
    return join([el('p', title), el('ul', items)])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _value(text: str) -> str:
    value = number(text)
    return text if value is None or value == int(value) else format_number(value)
