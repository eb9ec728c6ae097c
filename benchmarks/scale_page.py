"""Write docs/scale.rst from the tables of scale.py, throughput.py and long_run.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from page import render

from synthseg_bids.app.execute import CHUNK
from synthseg_bids.files import read_table, write_text

COLUMNS = (
    *('what', 'scans', 'segmented', 'seconds', 'between_seconds', 'cpu_seconds', 'peak_mb'),
    *('open_files', 'output_files', 'output_mb', 'work_files', 'work_mb', 'nprocs', 'load', 'cpu'),
    'version',
)
THROUGHPUT_COLUMNS = (
    *('device', 'workers', 'scans', 'scans_per_minute', 'seconds', 'cpu_seconds_per_scan'),
    *('scan', 'model', 'cpus', 'load', 'cpu', 'version'),
)
NOT_MEASURED = 'not measured: no GPU'

#: What was asked for: CPU seconds of the workflow per scan, MB of the main process.
MOST_OVERHEAD_S, MOST_MB = 0.5, 1000
BIOBANK, OF_A_TASK = 100_000, 200


def write_page(docs: Path) -> None:
    """Write the page; parts of which nothing was measured are left out."""
    rows = [Measured(row) for row in read_table(docs / 'scale.tsv')]
    throughput = read_table(docs / 'throughput.tsv')
    long_run = read_table(docs / 'long_run.tsv')
    page = render(
        'scale',
        chunk=CHUNK,
        growth=growth(rows),
        machines=sorted({f'{row["cpu"]}, {row["nprocs"]} processors used' for row in rows}),
        verdicts=verdicts(rows) if rows else [],
        biobank=biobank(rows, throughput),
        throughput=of_throughput(throughput),
        long_run=long_run,
        long_run_rows=[[r['tenth'], r['memory_mb'], r['open_files']] for r in long_run],
    )
    write_text(docs / 'scale.rst', page)


class Measured(dict[str, str]):
    """A line of the table."""

    def number(self, column: str) -> float:
        """Return a cell; 0 if it is empty."""
        return float(self[column]) if self[column] != 'n/a' else 0.0

    @property
    def size(self) -> int:
        """Number of scans of the dataset."""
        return int(self['scans'])


def of_kind(rows: Iterable[Measured], what: str) -> list[Measured]:
    return sorted((row for row in rows if row['what'] == what), key=lambda row: row.size)


def slope(rows: Sequence[Measured], column: str) -> float:
    """Return what one more scan adds, from the two largest datasets."""
    one, other = rows[-2:]
    return (other.number(column) - one.number(column)) / (other.size - one.size)


def at_size(rows: Sequence[Measured], column: str, size: int) -> float:
    """Extrapolate from the two largest datasets."""
    return rows[-1].number(column) + (size - rows[-1].size) * slope(rows, column)


def growth(rows: list[Measured]) -> dict[str, object]:
    """Tabulate every kind of run over the sizes."""
    cells: dict[str, Callable[[Measured], object]] = {
        'Scans': lambda row: f'{row.size:,}',
        'Segmented': lambda row: f'{row.number("segmented"):,.0f}',
        'CPU seconds': lambda row: f'{row.number("cpu_seconds"):.1f}',
        'Seconds': lambda row: f'{row.number("seconds"):.1f}',
        'Seconds per scan': lambda row: (
            f'{row.number("between_seconds") / row.number("segmented"):.2f}'
        ),
        'Load': lambda row: row['load'],
        'Memory, MB': lambda row: f'{row.number("peak_mb"):.0f}',
        'Open files': lambda row: row['open_files'],
        'Output files': lambda row: f'{row.number("output_files"):,.0f}',
        'Work files': lambda row: f'{row.number("work_files"):,.0f}',
    }
    of_runs = ('Segmented', 'Seconds per scan', 'Output files', 'Work files')
    short = [name for name in cells if name not in of_runs]
    tables = {}
    for what in ('plan', 'run', 'rest', 'group', 'again'):
        head = list(cells) if what in ('run', 'rest') else short
        lines = [[cells[name](row) for name in head] for row in of_kind(rows, what)]
        tables[what] = {'head': head, 'rows': lines} if lines else None
    return tables


def verdicts(rows: list[Measured]) -> list[str]:
    """Describe the results in words, and what was computed rather than measured."""
    runs, rest, plans, groups = (of_kind(rows, what) for what in ('run', 'rest', 'plan', 'group'))
    lines = [
        f'- From {one.size:,} to {other.size:,} scans, one more scan takes {each:.3f} CPU seconds '
        f'of workflow, tiny network included ({met(each, MOST_OVERHEAD_S)} {MOST_OVERHEAD_S:g}).'
        for one, other in pairwise(runs)
        for each in [slope([one, other], 'cpu_seconds')]
    ]
    for name, found in (('Planning', plans), ('Tables and reports', groups)):
        steps = [
            f'{1000 * slope(pair, "cpu_seconds"):.1f} ms from {pair[0].size:,} to '
            f'{pair[1].size:,} scans'
            for pair in pairwise(found)
        ]
        if steps:
            lines.append(f'- {name}, CPU time of one more scan: {", ".join(steps)}.')
    largest = max(rows, key=lambda row: row.size)
    peak = max(row.number('peak_mb') for row in rows if row.size == largest.size)
    lines.append(
        f'- The main process had {peak:.0f} MB at most with {largest.size:,} scans '
        f'({met(peak, MOST_MB)} {MOST_MB:,}).'
    )
    if len(runs) > 1 and rest and rest[-1].size > runs[-1].size:
        size = rest[-1].size
        whole, memory = (at_size(runs, column, size) for column in ('cpu_seconds', 'peak_mb'))
        lines.append(
            f'- Extrapolated, not measured: a whole run of {size:,} scans takes '
            f'{whole / 3600:.2f} CPU hours of workflow (the run of {runs[-1].size:,} scans, and '
            'the CPU seconds above for every further scan). Its main process has no more than '
            f'{memory:.0f} MB ({met(memory, MOST_MB)} {MOST_MB:,}), should memory grow as it does '
            f'from {runs[-2].size:,} to {runs[-1].size:,} scans, graphs of Nipype included.'
        )
    return lines


def met(value: float, limit: float) -> str:
    return 'as wanted: below' if value < limit else 'too much: wanted is less than'


def biobank(rows: list[Measured], throughput: list[dict[str, str]]) -> dict[str, object]:
    """Compute what a hundred thousand scans take, from runs of the shipped model."""
    shipped, groups = of_kind(rows, 'shipped'), of_kind(rows, 'group')
    if len(shipped) < 2:
        return {}
    cpu, start = slope(shipped, 'cpu_seconds'), shipped[0].number('cpu_seconds')
    tasks = BIOBANK // OF_A_TASK
    hours = (BIOBANK * cpu + tasks * max(0.0, start - cpu)) / 3600
    on_gpu = [row for row in throughput if row['device'].startswith('GPU')]
    speeds = [
        float(row['scans_per_minute']) for row in on_gpu if row['scans_per_minute'] != NOT_MEASURED
    ]
    gpu = f'{BIOBANK / max(speeds) / 60:,.0f}' if speeds else NOT_MEASURED
    each = {column: slope(shipped, column)
            for column in ('output_files', 'output_mb', 'work_files', 'work_mb')}  # fmt: skip
    lines = [
        ['CPU hours on CPUs alone', f'{hours:,.0f}', f'{cpu:.1f} CPU seconds'],
        ['GPU hours', gpu, 'best of the table below' if speeds else ''],
        ['Output', f'{BIOBANK * each["output_mb"] / 1e6:,.3f} TB', f'{each["output_mb"]:.2f} MB'],
        ['Output files and folders', f'{BIOBANK * each["output_files"]:,.0f}',
         f'{each["output_files"]:.0f}'],
        [f'Working directory of a task ({OF_A_TASK} scans)',
         f'{OF_A_TASK * each["work_mb"] / 1e3:,.2f} GB', f'{each["work_mb"]:.2f} MB'],
        ['Files and folders there', f'{OF_A_TASK * each["work_files"]:,.0f}',
         f'{each["work_files"]:.0f}'],
    ]  # fmt: skip
    if len(groups) > 1:
        seconds, memory = (at_size(groups, c, BIOBANK) for c in ('cpu_seconds', 'peak_mb'))
        lines += [
            ['CPU hours of tables and reports', f'{seconds / 3600:,.1f}',
             f'{slope(groups, "cpu_seconds"):.3f} CPU seconds'],
            ['Memory for them', f'{memory / 1e3:.1f} GB',
             f'{slope(groups, "peak_mb") * 1e3:.0f} kB'],
        ]  # fmt: skip
    return {
        'size': f'{BIOBANK:,}',
        'tasks': tasks,
        'of_a_task': OF_A_TASK,
        'runs': [row.size for row in shipped],
        'rows': lines,
    }


def of_throughput(rows: list[dict[str, str]]) -> dict[str, object]:
    """Tabulate scans per minute; empty if nothing was measured."""
    if not rows:
        return {}
    columns = ('device', 'workers', 'scans_per_minute', 'cpu_seconds_per_scan', 'scans', 'load')
    first = next((row for row in rows if row['scan'] != 'n/a'), rows[0])
    return {'of': first, 'rows': [[row[column] for column in columns] for row in rows]}
