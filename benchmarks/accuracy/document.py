"""The page docs/accuracy.rst, from the tables alone."""

from __future__ import annotations

from pathlib import Path

import synthetic
from confidence import confidence_table
from page import render, table

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

#: Title of each part of the page.
PARTS = {
    'real': 'Real scans',
    'templates': 'Average templates',
    'fast': 'Real scans with ``--fast``',
    'repeatability': 'Repeatability',
    'generated': 'Generated scans',
}


def page(tables: Path) -> str:
    """Make the page from the tables."""
    parts = {}
    for name, title in PARTS.items():
        rows = read_table(tables / f'{name}_run.tsv')
        facts = {row['fact']: row['value'] for row in rows}
        commands = [facts.pop(key) for key in [*facts] if key.startswith('Command')]
        if rows:
            parts[name] = {'title': title, 'facts': facts, 'commands': commands}
            parts[name] |= contents(tables, name)
    return render(
        'accuracy',
        parts=parts,
        targets=targets_table(find_targets(tables)),
        repeatability=repeatability,
        synthetic=synthetic,
    )


def contents(tables: Path, name: str) -> dict[str, object]:
    """Return tables and pictures of a part of the page."""
    scans, lesions, structures, summary = (
        read_table(tables / f'{name}_{kind}.tsv')
        for kind in ('scans', 'lesions', 'structures', 'summary')
    )
    measures = tables / f'{name}_confidence.tsv'
    measured = {row['contrast'] for row in summary} if measures.exists() else ()
    return {
        'sources': sources(tables, name),
        'tables': repeatability_tables(read_table(tables / 'repeatability.tsv'))
        if name == 'repeatability'
        else [
            means_table(summary),
            *([scans_table(scans)] if name in ('real', TEMPLATES) else []),
            structures_table(summary),
            *(measure_tables(structures) if name != 'fast' else []),
        ],
        'picture': name != 'repeatability',
        'lesions': lesions_table(lesions) if name == 'real' and lesions else '',
        'worst': [condition for condition in synthetic.CONDITIONS if condition in measured],
        'correlations': confidence_table(measures, tables / f'{name}_scans.tsv'),
    }


def sources(tables: Path, name: str) -> str:
    """Tabulate where the scans of a part come from, for those that are not told of before."""
    rows = [
        row
        for row in read_table(tables / 'real_sources.tsv')
        if name in ('real', TEMPLATES) and (row['Group'] == TEMPLATES) == (name == TEMPLATES)
    ]
    columns = [column for column in rows[0] if column != 'Data set'] if rows else []
    lines = [[row[column] for column in columns] for row in rows]
    return table('Where they come from', columns, lines) if rows else ''
