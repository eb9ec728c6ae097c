"""The page docs/accuracy.rst, from the tables alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from confidence import confidence_table
from page import table
from synthetic import CONDITIONS, LOW_FIELD, LOW_FIELD_MM, NOISY, SLICE_MM, SLICES, SNR, WIDE

from synthseg_bids.files import read_table

from . import repeatability
from .real import TEMPLATES
from .tabulate import (
    lesions_table,
    means_table,
    measure_tables,
    repeatability_tables,
    scans_table,
    structures_table,
    targets_table,
)
from .targets import find_targets

HEADER = """\
Accuracy
========

.. Written by benchmarks/accuracy (make accuracy) from the tables in accuracy/; do not edit.
"""
INTRODUCTION = """
Segmentations of the model against references. *12 structures* is the mean over those of the MIDL
2020 paper, left and right averaged; *32 labels* is the mean over every label but background. Means
and standard deviations (SD) are over scans; in brackets is the 95 % confidence interval of the
mean: a bootstrap over scans, which count as independent even where one head gave several, and too
narrow for a handful of them. Beside the overlap (Dice) there are the 95 % Hausdorff distance (the
larger of both directions), the mean distance of the surfaces, the volume divided by that of the
reference (geometric mean), and the agreement of the volumes as intraclass correlation, where there
are five scans. Every scan and label is in the tables of ``docs/accuracy/``.
"""
REAL = """
Scans of individuals with reference segmentations by FreeSurfer, SAMSEG or experts; but for the
last, they are not the truth themselves. Cerebrospinal fluid outside the ventricles, one of the 32
labels, is all the fluid around the brain for the model and for SAMSEG, but a small part of it for
FreeSurfer. The references of infants have the cerebellum and the lateral ventricles in one piece,
which is what is compared, so that 11 structures are left. Those of old age have the amygdala by
another protocol, which is left out. The three contrasts of multiple sclerosis are compared with
SAMSEG on the T1w scan of the same head. Seconds are those of the threads named below, on a machine
that did other work as well; ``docs/speed.rst`` is the page for time. No real PDw, thick-slice or
CT scan has a reference here; ``docs/ct.rst`` has generated CT scans.
"""
NO_LESIONS = """
This model has no label of lesions; nothing is known of how it would find them: n/a.
"""
AVERAGES = """
Averages of many heads are no individuals: they have no noise and blurred cortices, and FreeSurfer,
the reference, was not made for them. What is measured is as much the reference as the model, and
counts neither in the means above nor in the targets.
"""
FAST = """
The T1w scans of adults without the mirrored pass: what ``--fast`` saves, and what it costs.
"""
REPEATABILITY = f"""
No reference is needed to tell what changes when the same head is scanned otherwise. A whole head
was averaged over slices without gaps, with a box as slice profile; cut to the brain and
{repeatability.MARGIN} voxels around it; cut off through the brain, without the upper
{repeatability.CUT:.0%} of the head; and given the noise of magnitude images (SNR
{repeatability.SNR}: mean of the brain by the standard deviation). All is compared with the
segmentation of the scan as it is, at 1 mm, within what is left in view. The contrasts of a
session, a clinical one with slices of 3 to 4 mm, are compared with its T1w scan after alignment as
rigid bodies.
"""
GENERATED = f"""
Scans generated from label maps that the model was not trained on, at their own resolution, and
compared with the exact labels. ``midl2020`` and ``synthseg2023`` are the presets of ``synthseg
synthesize``, cropped around the brain and rescaled as in validation; ``{SLICES}`` is
``synthseg2023`` with slices {SLICE_MM} mm thick and {SLICE_MM} mm apart along one axis, drawn for
each scan, and full resolution within them; ``{WIDE}`` is ``midl2020`` with lateral ventricles of
1.5 to 4 times the volume of those of the label maps; ``{NOISY}`` are the scans of
``synthseg2023`` with Rician noise of the acquired voxels, the mean of the brain
{SNR[NOISY][0]} to {SNR[NOISY][1]} times its standard deviation; ``{LOW_FIELD}`` is
``synthseg2023`` with voxels of {LOW_FIELD_MM} mm and such noise, {SNR[LOW_FIELD][0]} times. Not
trained on does not mean unused: validation during training, the temperature of the posteriors, the
settings of the refinement (``docs/model_card.rst``) and the limits of quality control
(``docs/qc.rst``) come from scans of these very label maps.
"""
SURENESS = """
Does a segmentation know how good it is? What quality control looks at, beside the true Dice of
these scans: over scans, the means over all structures; and for each structure on its own.
"""
WORST = """
The scan of each kind with the lowest Dice, with the segmentation below:
"""
TARGETS = f"""
What the next network is to reach, and what the one above does. ``{NOISY}`` is compared with
``synthseg2023``, whose scans it shares but for the noise. Volumes of real individuals are those of
all real scans above. ``n/a``: not measured, or not segmented by this network.
"""

#: Title and text of each part of the page.
PARTS = {
    'real': ('Real scans', REAL),
    'templates': ('Average templates', AVERAGES),
    'fast': ('Real scans with ``--fast``', FAST),
    'repeatability': ('Repeatability', REPEATABILITY),
    'generated': ('Generated scans', GENERATED),
}


def page(tables: Path) -> str:
    """Make the page from the tables."""
    blocks = [HEADER, fill(INTRODUCTION)]
    for name, (title, text) in PARTS.items():
        rows = read_table(tables / f'{name}_run.tsv')
        if not rows:
            continue
        blocks += [heading(title), fill(text), *sources(tables, name)]
        facts = {row['fact']: row['value'] for row in rows}
        commands = [facts.pop(key) for key in [*facts] if key.startswith('Command')]
        blocks.append(''.join(f':{key}: {value}\n' for key, value in facts.items()))
        if commands:
            blocks.append('::\n\n' + ''.join(f'    {line}\n' for line in commands))
        if name == 'repeatability':
            blocks += repeatability_tables(read_table(tables / 'repeatability.tsv'))
        else:
            blocks += accuracy_blocks(tables, name)
    blocks += [heading('Targets'), fill(TARGETS), targets_table(find_targets(tables))]
    return '\n'.join(blocks)


def accuracy_blocks(tables: Path, name: str) -> Iterator[str]:
    """Yield the tables and pictures of scans that have references."""
    summary, scans, structures = (
        read_table(tables / f'{name}_{kind}.tsv') for kind in ('summary', 'scans', 'structures')
    )
    yield means_table(summary)
    if name in ('real', TEMPLATES):
        yield scans_table(scans)
    yield structures_table(summary)
    if name != 'fast':
        yield from measure_tables(structures)
    yield f'.. image:: accuracy/{name}.png\n   :alt: Dice of each structure and contrast\n'
    if name == 'real':
        lesions = read_table(tables / 'real_lesions.tsv')
        yield lesions_table(lesions) if lesions else fill(NO_LESIONS)
    measures = tables / f'{name}_confidence.tsv'
    if measures.exists():
        yield fill(WORST)
        measured = {row['contrast'] for row in summary}
        for condition in (condition for condition in CONDITIONS if condition in measured):
            yield f'.. image:: accuracy/worst_{condition}.png\n'
        if correlations := confidence_table(measures, tables / f'{name}_scans.tsv'):
            yield fill(SURENESS)
            yield correlations


def sources(tables: Path, name: str) -> list[str]:
    """Tabulate where the scans of a part come from, for those that are not told of before."""
    if name not in ('real', TEMPLATES):
        return []
    rows = [
        row
        for row in read_table(tables / 'real_sources.tsv')
        if (row['Group'] == TEMPLATES) == (name == TEMPLATES)
    ]
    columns = [column for column in rows[0] if column != 'Data set'] if rows else []
    lines = [[row[column] for column in columns] for row in rows]
    return [table('Where they come from', columns, lines)] if rows else []


def heading(title: str) -> str:
    return f'{title}\n{"-" * len(title)}\n'


def fill(text: str) -> str:
    return textwrap.fill(' '.join(text.split()), 95) + '\n'
