"""Write docs/parcels.rst from the tables of benchmarks/parcels.py."""

from __future__ import annotations

from pathlib import Path

from page import cpu_name, render

from synthseg_bids.files import read_table, write_text
from synthseg_bids.parcels import parcel_labels

PARTS = ('maps', 'generated', 'real')


def write_page(tables: Path, target: Path) -> None:
    """Fill the template; parts that were not measured are left out."""
    scans = [row for part in PARTS for row in read_table(tables / f'{part}_scans.tsv')]
    parcels = [row for part in PARTS for row in read_table(tables / f'{part}_parcels.tsv')]
    columns = list(dict.fromkeys(row['condition'] for row in scans))
    by_parcel = {(row['condition'], int(row['parcel'])): row['mean'] for row in parcels}
    conditions = []
    for name in columns:
        means = [float(row['mean']) for row in scans if row['condition'] == name]
        least = min(
            (float(row['mean']), row['name']) for row in parcels if row['condition'] == name
        )
        conditions.append(
            [name, len(means), *_texts(sum(means) / len(means), min(means)),
             f'{least[0]:.3f} ({least[1]})']
        )  # fmt: skip

    def mean_of_sides(condition: str, indices: tuple[int, int]) -> str:
        known = [float(by_parcel[condition, i]) for i in indices if (condition, i) in by_parcel]
        return f'{sum(known) / len(known):.3f}' if known else 'n/a'

    rows = [
        [label.name.removeprefix('ctx-lh-')]
        + [mean_of_sides(name, (label.index, label.mirror)) for name in columns]
        for label in parcel_labels()
        if label.side == 'left'
    ]
    contrasts = [
        [row['scan'], row['other'], f'{float(row["median_difference"]):.1%}']
        for row in read_table(tables / 'contrasts.tsv')
    ]
    page = render(
        'parcels',
        conditions=conditions,
        columns=columns,
        parcels=rows,
        contrasts=contrasts,
        cpu=cpu_name(),
    )
    write_text(target, page)


def _texts(*values: float) -> list[str]:
    return [f'{value:.3f}' for value in values]
