"""Quality control of one image, in plain language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthseg_bids.measure.qc import summarise

from .charts import format_number
from .tree import Image, Row, checked_rows, group_table, number, read_json

_VERDICT = 'verdict'
#: Begin of the names of measures.
EXPECTED = 'expected_dice_'


def read_quality(out_dir: Path, image: Image) -> tuple[str, list[Row]]:
    """Return the verdict (empty if there is none) and the measures that led to it."""
    rows = checked_rows(out_dir / f'{image.stem}_qc.tsv') if image.stem else []
    verdict = next((row['value'] for row in rows if row['measure'] == _VERDICT), '')
    return verdict, [row for row in rows if row['measure'] != _VERDICT]


def short_note(out_dir: Path, image: Image) -> str:
    """Summarise verdict and notes of an image in one line."""
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


def describe_quality(out_dir: Path, image: Image) -> dict[str, Any]:
    """Gather what was found, worst first, and all measures; empty if there is no verdict."""
    verdict, rows = read_quality(out_dir, image)
    if not verdict:
        return {}
    reasons = sorted((row for row in rows if row['reason']), key=lambda row: row['flag'] != 'fail')
    dictionary = read_json(out_dir / f'{image.stem}_qc.json').get('measure', {})
    explanations = dictionary.get('Levels', {})
    return {
        'verdict': verdict,
        'reasons': [row['reason'] for row in reasons],
        'unusual': _unusual(out_dir, image),
        'expected': [
            (
                row['measure'].removeprefix(EXPECTED).replace('_', ' '),
                dice,
                number(row.get('error')),
            )
            for row in rows
            if row['measure'].startswith(EXPECTED) and (dice := number(row['value'])) is not None
        ],
        'measures': [
            (
                row['measure'].replace('_', ' '),
                ' ± '.join(_value(cell) for cell in (row['value'], row.get('error')) if cell),
                row['flag'],
                explanations.get(row['measure'], ''),
            )
            for row in rows
        ],
    }


def _unusual(out_dir: Path, image: Image) -> list[tuple[Any, ...]]:
    """List the measures that lie far from those of the other images of the contrast."""
    return [
        (
            row['statistic'].replace('_', ' '),
            *(number(row[name]) for name in ('value', 'typical', 'robust_z')),
        )
        for row in group_table(out_dir, 'outliers').by_image.get(image.key, ())
        if row['table'] == 'qc'
    ]


def _value(text: str) -> str:
    value = number(text)
    return text if value is None or value == int(value) else format_number(value)
