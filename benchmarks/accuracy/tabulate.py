"""Make the tables of the page from those of the measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from page import table

from synthseg_bids.labels import PAPER_STRUCTURES
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.summary import ALL_CONTRASTS, MEAN_OF_LABELS

from .real import geometric_mean
from .targets import Target, known, mean_dice

Rows = Sequence[Mapping[str, str]]
UNKNOWN = 'n/a'
#: Columns of ``structures.tsv`` that get a table each: title and number of decimals.
MEASURES = {
    'hd95_mm': ('95 % Hausdorff distance in mm', 1),
    'surface_distance_mm': ('Mean distance of the surfaces in mm', 2),
    'volume_ratio': ('Volume divided by that of the reference (geometric mean)', 3),
    'volume_icc': ('Agreement of the volumes, ICC(2,1), of five scans or more', 2),
}


def means_table(summary: Rows) -> str:
    """Tabulate the means over structures of each contrast."""

    def cell(row: dict[str, str]) -> str:
        interval = f' [{rounded(row["ci_low"])} to {rounded(row["ci_high"])}]'
        return rounded(row['mean']) + (interval if row['ci_low'] != UNKNOWN else '')

    by_key = {(row['contrast'], row['structure']): row for row in summary}
    lines = []
    for contrast in contrasts(summary):
        means = [by_key[contrast, name] for name in (MEAN_NAME, MEAN_OF_LABELS)]
        cells = [text for row in means for text in (cell(row), rounded(row['sd']))]
        lines.append([contrast, means[0]['n'], *cells])
    return table(
        'Means over structures', ['Contrast', 'Scans', '12 structures', 'SD', '32 labels', 'SD'],
        lines,
    )  # fmt: skip


def structures_table(summary: Rows) -> str:
    """Tabulate mean and standard deviation of each structure and contrast."""

    def cell(row: dict[str, str]) -> str:
        return rounded(row['mean']) + (f' ± {rounded(row["sd"])}' if row['sd'] != UNKNOWN else '')

    cells: dict[str, dict[str, str]] = {}
    for row in summary:
        cells.setdefault(row['structure'], {})[row['contrast']] = cell(row)
    columns = contrasts(summary)
    lines = [[name, *(cells[name][contrast] for contrast in columns)] for name in PAPER_STRUCTURES]
    return table('Mean ± SD of each structure', ['Structure', *columns], lines)


def contrasts(summary: Rows) -> list[str]:
    """List the contrasts in the order of the summary; all of them last, if there are several."""
    found = list(dict.fromkeys(row['contrast'] for row in summary))
    return found if len(found) > 2 else [c for c in found if c != ALL_CONTRASTS]


def measure_tables(structures: Rows) -> Iterable[str]:
    """Tabulate everything but Dice of each structure and contrast: a table per measure."""
    columns = contrasts(structures)
    if structures:
        yield groups_table(structures)
    for measure, (title, decimals) in MEASURES.items():
        cells = {(row['structure'], row['contrast']): row[measure] for row in structures}
        if all(cell == UNKNOWN for cell in cells.values()):
            continue
        lines = [
            [name, *(rounded(cells.get((name, column), UNKNOWN), decimals) for column in columns)]
            for name in PAPER_STRUCTURES
        ]
        yield table(title, ['Structure', *columns], lines)


def groups_table(structures: Rows) -> str:
    """Tabulate the means over structures of all that is measured of each contrast."""
    lines = []
    columns = {'dice': 3} | {name: decimals for name, (_, decimals) in MEASURES.items()}
    for contrast in contrasts(structures):
        rows = [row for row in structures if row['contrast'] == contrast]
        cells = [contrast, str(max(int(row['n']) for row in rows))]
        for name, decimals in columns.items():
            values = known(row[name] for row in rows)
            average = geometric_mean if name == 'volume_ratio' else statistics.mean
            cells.append(f'{average(values):.{decimals}f}' if values else UNKNOWN)
        lines.append(cells)
    header = ['Contrast', 'Scans', 'Dice', '95 % Hausdorff (mm)', 'Surface distance (mm)']
    header += ['Volume ratio', 'ICC']
    return table('Means over the 12 structures', header, lines)


def rounded(number: str, decimals: int = 3) -> str:
    return number if number == UNKNOWN else f'{float(number):.{decimals}f}'


def scans_table(scans: Rows) -> str:
    """Tabulate the means over the structures of each scan."""
    lines = []
    for scan in dict.fromkeys(row['scan'] for row in scans):
        rows = [row for row in scans if row['scan'] == scan]
        contrast = rows[0]['contrast']
        own = [row for row in rows if row['kind'] == 'structure' and row['dice'] != UNKNOWN]
        volumes = [(float(row['volume_mm3']), float(row['reference_volume_mm3'])) for row in own]
        distances = (
            statistics.mean(known(row[name] for row in own) or [float('nan')])
            for name in ('hd95_mm', 'surface_distance_mm')
        )
        hd95, surface = distances
        ratio = geometric_mean([one / other for one, other in volumes if one and other])
        dice = mean_dice(rows, contrast)[0]
        numbers = [f'{dice:.3f}', f'{hd95:.1f}', f'{surface:.2f}', f'{ratio:.3f}']
        lines.append([scan, contrast, str(len(own)), *numbers])
    header = ['Scan', 'Group', 'Structures', 'Dice', '95 % Hausdorff (mm)']
    header += ['Surface distance (mm)', 'Volume ratio']
    return table('Each scan, means over structures', header, lines)


def lesions_table(rows: Rows) -> str:
    """Tabulate the lesions of each scan."""
    lines = [
        [
            row['scan'],
            row['contrast'],
            rounded(row['volume_ml'], 2),
            rounded(row['reference_ml'], 2),
            rounded(row['dice'], 3),
        ]
        for row in rows
    ]
    header = ['Scan', 'Group', 'Lesions (ml)', 'Reference (ml)', 'Dice']
    return table('Lesions of the white matter', header, lines)


def repeatability_tables(rows: Rows) -> list[str]:
    """Tabulate how much changes under each condition, and in each structure."""
    names = list(dict.fromkeys(row['condition'] for row in rows))
    lines, changes = [], {}
    for name in names:
        own = [row for row in rows if row['condition'] == name]
        changes[name] = {row['structure']: change(row) for row in own if row['dice'] != UNKNOWN}
        worst = max(changes[name], key=lambda s: abs(changes[name][s]))
        mean = statistics.mean(abs(value) for value in changes[name].values())
        dice = statistics.mean(known(row['dice'] for row in own))
        largest = f'{changes[name][worst]:+.1f} ({worst})'
        lines.append([name, f'{dice:.3f}', f'{mean:.1f}', largest])
    header = ['Scan', 'Dice', 'Mean difference of volumes (%)', 'Largest difference (%)']
    each = [
        [structure, *(signed(changes[name].get(structure)) for name in names)]
        for structure in PAPER_STRUCTURES
    ]
    return [
        table('Agreement with the scan as it is, over the 12 structures', header, lines),
        table('Difference of volumes in %', ['Structure', *names], each),
    ]


def signed(percent: float | None) -> str:
    return UNKNOWN if percent is None else f'{percent:+.1f}'


def change(row: Mapping[str, str]) -> float:
    """Return by how many percent a volume differs; 100 where there was none."""
    now, before = float(row['volume_mm3']), float(row['unchanged_mm3'])
    return 100 * (now / before - 1) if before else 100.0 * (now > 0)


def targets_table(targets: Iterable[Target]) -> str:
    return table('Targets', ['Measure', 'Target', 'Reached', 'Met'], [[*t] for t in targets])
