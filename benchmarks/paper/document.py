"""Write the page docs/paper.rst from the tables alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from page import render

from synthseg_bids.files import read_table
from synthseg_bids.measure.summary import ALL_CONTRASTS

from .options import SIZES, SYSTEMS
from .statements import ABSENT, FAILS, HOLDS, NOT_OF_THE_PAPER, OPEN, published

NAN = 'n/a'
_PAPER_OPTIONS = SIZES['paper'].split()
PAPER_STEPS = int(_PAPER_OPTIONS[_PAPER_OPTIONS.index('--steps') + 1])
#: Pictures that are shown if they exist.
PICTURES = ('figure2', 'figure3')


def page(tables: Path) -> str:
    """Make the page."""
    rows = {name: read_table(tables / f'{name}.tsv') for name in (
        'run', 'networks', 'table2', 'figure4', 'figure5', 'statements'
    )}  # fmt: skip
    facts = {row['fact']: row['value'] for row in rows['run']}
    command = facts.pop('Command', '')
    fair = [row for row in rows['table2'] if row['seen'] == 'no' or row['note'] != NAN]
    said, others = (
        [row for row in rows['statements'] if (row['statement'] in NOT_OF_THE_PAPER) is other]
        for other in (False, True)
    )
    counts = Counter(row['verdict'] for row in said)
    return render(
        'paper',
        paper_steps=PAPER_STEPS,
        holds=HOLDS,
        fails=FAILS,
        open=OPEN,
        facts=facts,
        command=command,
        networks=[network_row(row) for row in rows['networks']],
        pictures=[name for name in PICTURES if (tables / f'{name}.png').exists()],
        fair=[accuracy_row(row) for row in fair],
        seen=[accuracy_row(row) for row in rows['table2'] if row not in fair],
        missing=[(SYSTEMS[row['system']], row['note']) for row in fair if row['note'] != NAN],
        said=[statement_row(row) for row in said],
        verdicts=[f'{v}: {counts[v]}' for v in (HOLDS, FAILS, OPEN, ABSENT) if counts[v]],
        others=[statement_row(row) for row in others],
        contrasts=unique(row['contrast'] for row in rows['figure4']),
        medians=unique(f'{row["scan"]} ({row["contrast"]})' for row in rows['figure5']),
    )


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def short(number: str, digits: int = 3) -> str:
    return number if number == NAN else f'{float(number):.{digits}f}'


def number(text: str) -> str:
    """Round a difference in Dice, or a ratio of times."""
    return short(text, 0 if text != NAN and float(text) >= 10 else 3)


def interval(row: Mapping[str, str]) -> str:
    if row['ci_low'] == NAN:
        return ''
    return f' [{short(row["ci_low"])} to {short(row["ci_high"])}]'


def network_row(row: Mapping[str, str]) -> list[str]:
    return [
        SYSTEMS[row['system']] + ('' if row['number'] == '0' else f' {row["number"]}'),
        'label maps only' if row['trained_on'] == NAN else row['trained_on'],
        '' if row['contrasts'] == NAN else row['contrasts'],
        row['steps'],
        f'{float(row["seconds"]) / 60:.1f}',
        row['device'],
        f'{float(row["spacing_mm"]):g}',
    ]


def accuracy_row(row: Mapping[str, str]) -> list[str]:
    """Show accuracy and time, with the paper's accuracy where it has one."""
    return [
        SYSTEMS[row['system']], row['any_contrast'], row['contrast'], row['scans'],
        short(row['mean']) + interval(row), short(row['sd']), in_paper(row),
        short(row['seconds'], 1),
    ]  # fmt: skip


def in_paper(row: Mapping[str, str]) -> str:
    """Return the paper's Dice of a system; of the supervised one it has two kinds of T1w scans."""
    condition, seen = row['contrast'], row['seen'] == 'trained on'
    if row['system'] == 'supervised' and condition != ALL_CONTRASTS:
        condition = f'{"own" if seen else "other"} {condition}'
    elif row['seen'] != 'no':
        return NAN
    value = published(row['system'], condition)
    return NAN if value != value else f'{value:.2f}'


def statement_row(row: Mapping[str, str]) -> list[str]:
    return [
        row['statement'], row['measure'], row['paper'], number(row['here']) + interval(row),
        row['scans'], row['verdict'],
    ]  # fmt: skip
