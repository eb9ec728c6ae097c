"""The page docs/paper.rst, from the tables alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from page import table

from synthseg_bids.files import read_table
from synthseg_bids.measure.summary import ALL_CONTRASTS

from .options import SIZES, SYSTEMS
from .statements import ABSENT, FAILS, HOLDS, NOT_OF_THE_PAPER, OPEN, published

NAN = 'n/a'
_PAPER_OPTIONS = SIZES['paper'].split()
PAPER_STEPS = int(_PAPER_OPTIONS[_PAPER_OPTIONS.index('--steps') + 1])
HEADER = """\
The paper's experiments
=======================

.. Written by benchmarks/paper (make paper) from the tables in paper/; do not edit.
"""
INTRODUCTION = """
The four systems of the MIDL 2020 paper (Billot et al.) on open scans with reference segmentations:
SynthSeg, trained on label maps alone; SynthSeg-rule, whose random intensities follow priors
estimated from real scans; a network of the same kind trained on real T1w scans with supervision;
and SAMSEG (Puonti et al., NeuroImage 143:235, 2016). *Dice* is the mean over the paper's 12
structures, left and right averaged.
"""
DIFFERENCES = f"""
The numbers are not the paper's, and are not expected to be. The scans, their contrasts and their
references are others, and few; the references are by FreeSurfer or SAMSEG. The networks were
trained in our training loop for as long as the table says, where ``--size paper`` has
{PAPER_STEPS:,} steps at 1 mm, the length in the authors' code of 2020. The supervised network and
the priors saw only the few scans named there; where a group has no scan of a contrast,
SynthSeg-rule has no prior for it, as it has for each in the paper. What carries over is the
comparison: all networks that are trained here have the same size, length and spatial augmentation.
The supervised network is augmented with a random bias field as well. The shipped network, trained
for much longer, with another preset, stands beside them; its borders are refined by the scan's
intensities (``docs/model_card.rst``), those of the networks that are trained here are not.
"""
SPLIT = """
No system is judged by scans that it has seen. The participants are divided into groups; the
supervised network and the priors are made anew from each, and tested on the participants of the
others, where a contrast that only one participant has is new to it. SAMSEG is not judged by
references that it made itself. Scans that do not count are in a table of their own.
"""
PICTURES = {
    'figure2': (
        'Figure 2: how a training scan is made',
        """
        Deformed label map, Gaussian intensities of random means, blur, bias field, and gamma with
        normalisation: one draw, in three planes. Each side has intensities of its own, as in the
        paper of 2020, and one scan in five has no skull.
        """,
    ),
    'figure3': (
        'Figure 3: intensities as in real scans',
        """
        The same for SynthSeg-rule, from the T1w priors of its first group.
        """,
    ),
}
TABLE2 = """
Means over scans, with their standard deviation (SD) and the 95 % confidence interval of the mean
in brackets (a bootstrap, too narrow for a handful of scans). *Any contrast* says whether a system
does without scans of a contrast before it can segment it. Times are medians over scans, loading
of the network not counted; the paper's were taken on other hardware.
"""
STATEMENTS = f"""
Each statement is held against the paired differences in the scans that both systems can be judged
by. It *{HOLDS}* if the 95 % confidence interval of their mean lies on its side of zero, *{FAILS}*
if on the other, and is *{OPEN}* if zero is inside or there is but one scan. The difference between
contrasts must be no larger than in the paper, and is *{OPEN}* with a single scan of a contrast; of
times only the order is judged. *Its own data set* is the very scans that the supervised network
was trained on, which flatters it.
"""
BESIDE = """
No statement of the paper, which has no such network; beside it stands the paper's difference of
its own SynthSeg.
"""


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
    blocks = [
        HEADER,
        fill(INTRODUCTION),
        section('What is not as in the paper'),
        fill(DIFFERENCES),
        fill(SPLIT),
        ''.join(f':{key}: {value}\n' for key, value in facts.items()),
        f'::\n\n    {command}\n',
        networks_table(rows['networks']),
        *(
            block
            for name, (title, text) in PICTURES.items()
            if (tables / f'{name}.png').exists()
            for block in (section(title), fill(text), image(f'{name}.png', title))
        ),
        section('Table 2: accuracy and time'),
        fill(TABLE2),
        accuracy_table('Scans that a system has not seen', fair),
        accuracy_table(
            'Scans that it has seen, or whose reference it made',
            [row for row in rows['table2'] if row not in fair],
        ),
        *(f'{SYSTEMS[row["system"]]} is missing: {row["note"]}.\n' for row in fair
          if row['note'] != NAN),
        section("The paper's statements"),
        fill(STATEMENTS),
        statements_table('What the paper finds', said),
        fill(verdicts(said)),
        fill(BESIDE),
        statements_table('Beside the paper', others),
        section('Figure 4: each structure'),
        *(image(f'figure4_{name}.png', f'Dice of each structure and system, {name}')
          for name in unique(row['contrast'] for row in rows['figure4'])),
        section('Figure 5: the median scans'),
        fill(figure5_text(rows['figure5'])),
        image('figure5.png', 'A slice of each scan and its segmentations'),
    ]  # fmt: skip
    return '\n'.join(blocks)


def fill(text: str) -> str:
    return textwrap.fill(' '.join(text.split()), 95) + '\n'


def section(title: str) -> str:
    return f'{title}\n{"-" * len(title)}\n'


def image(name: str, alt: str) -> str:
    return f'.. image:: paper/{name}\n   :alt: {alt}\n'


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


def networks_table(rows: list[dict[str, str]]) -> str:
    lines = [
        [
            SYSTEMS[row['system']] + ('' if row['number'] == '0' else f' {row["number"]}'),
            'label maps only' if row['trained_on'] == NAN else row['trained_on'],
            '' if row['contrasts'] == NAN else row['contrasts'],
            row['steps'],
            f'{float(row["seconds"]) / 60:.1f}',
            row['device'],
            f'{float(row["spacing_mm"]):g}',
        ]
        for row in rows
    ]
    return table(
        'Trainings',
        ['Network', 'Participants seen', 'Contrasts', 'Steps', 'Minutes', 'Device', 'Voxel (mm)'],
        lines,
    )


def accuracy_table(title: str, rows: list[dict[str, str]]) -> str:
    """Tabulate accuracy and time, with the paper's accuracy where it has one."""
    if not rows:
        return ''
    lines = []
    for row in rows:
        lines.append([
            SYSTEMS[row['system']], row['any_contrast'], row['contrast'], row['scans'],
            short(row['mean']) + interval(row), short(row['sd']), in_paper(row),
            short(row['seconds'], 1),
        ])  # fmt: skip
    head = ['System', 'Any contrast', 'Contrast', 'Scans', 'Dice', 'SD', 'Paper', 'Seconds']
    return table(title, head, lines)


def in_paper(row: Mapping[str, str]) -> str:
    """Return the paper's Dice of a system; of the supervised one it has two kinds of T1w scans."""
    condition, seen = row['contrast'], row['seen'] == 'trained on'
    if row['system'] == 'supervised' and condition != ALL_CONTRASTS:
        condition = f'{"own" if seen else "other"} {condition}'
    elif row['seen'] != 'no':
        return NAN
    value = published(row['system'], condition)
    return NAN if value != value else f'{value:.2f}'


def statements_table(title: str, rows: list[dict[str, str]]) -> str:
    lines = [
        [
            row['statement'], row['measure'], row['paper'], number(row['here']) + interval(row),
            row['scans'], row['verdict'],
        ]
        for row in rows
    ]  # fmt: skip
    return table(title, ['Statement', 'Measure', 'Paper', 'Here', 'Scans', 'Verdict'], lines)


def verdicts(rows: list[dict[str, str]]) -> str:
    """Count the verdicts in words."""
    counts = [
        (verdict, sum(row['verdict'] == verdict for row in rows))
        for verdict in (HOLDS, FAILS, OPEN, ABSENT)
    ]
    return f'Of {len(rows)} statements: {", ".join(f"{name}: {n}" for name, n in counts if n)}.'


def figure5_text(rows: list[dict[str, str]]) -> str:
    scans = unique(f'{row["scan"]} ({row["contrast"]})' for row in rows)
    return (
        f'Of each contrast the scan in which the overlap of SynthSeg is the median: '
        f'{", ".join(scans)}. Scans whose licence forbids copies are not considered. A coronal '
        'slice through thalamus and hippocampus; left is on the left. Black: no segmentation to '
        'be judged.'
    )
