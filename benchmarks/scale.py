"""Measure how time, memory and files grow with the number of scans, and write docs/scale.rst.

Usage: python benchmarks/scale.py [--sizes 10 100 1000 10000] [--whole 1000] [--scan FILE] ...

The scans are tiny and so is the network, so that what is measured is the workflow around it. All
scans are one and the same file. Every line of the table is a run of synthseg-bids:

plan: --dry-run of a dataset that has no outputs.
run: all scans are segmented; where there are no more of them than --whole says.
rest: for larger datasets; but for the last --rest scans the outputs are those of one scan, copied
    under the names of the others. The rest is segmented.
group: tables and reports of all scans are written anew.
again: nothing is left to do.
shipped: like run, but a real scan and the shipped model.

New lines replace those of the same kind and size in docs/scale.tsv; the page is made from that
table and docs/throughput.tsv alone (--page-only does just that).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / 'tests' / 'helpers')]

from app import save_tiny_model, write_description, write_image  # noqa: E402
from page import cpu_name  # noqa: E402
from processes import Usage, watch  # noqa: E402
from scale_page import COLUMNS, write_page  # noqa: E402

from synthseg_bids import __version__  # noqa: E402
from synthseg_bids.bids.records import record, seal  # noqa: E402
from synthseg_bids.files import read_table, write_table  # noqa: E402

SCAN = Path('../shared/data/bids/sub-chris/anat/sub-chris_T1w.nii.gz')
#: Datasets of the shipped model: the difference tells what one more scan takes.
SHIPPED = (1, 3)
Row = dict[str, object]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, add to the table, write the page."""
    args = parse(argv)
    docs: Path = args.docs
    if not args.page_only:
        with tempfile.TemporaryDirectory(prefix='scale-', dir=args.work) as folder:
            for row in measure(args, Path(folder)):
                print('\t'.join(f'{key}={value}' for key, value in row.items()), flush=True)
                add_row(docs / 'scale.tsv', row)
    write_page(docs)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--sizes', type=int, nargs='*', default=[10, 100, 1000, 10_000], help='of the datasets')
    add('--whole', type=int, default=1000, help='segment all scans of datasets up to this size')
    add('--rest', type=int, default=100, help='scans to segment of larger ones')
    add('--nprocs', type=int, default=len(os.sched_getaffinity(0)), help='processors to use')
    add('--scan', type=Path, default=SCAN, help='for the shipped model; none: skipped')
    add('--work', type=Path, help='folder for datasets and outputs (default: a temporary one)')
    add('--docs', type=Path, default=HERE.parent / 'docs', help='where table and page go')
    add('--page-only', action='store_true', help='rewrite the page from its tables')
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Yield a line for every run."""
    tiny = folder / 'tiny.nii.gz'
    write_image(tiny)
    model = save_tiny_model(folder / 'tiny.safetensors')
    for size in sorted(args.sizes):
        dataset = Dataset(folder / f'{size}', size, tiny, str(model), args.nprocs)
        yield dataset.row('plan', 0, dataset.start('--dry-run'))
        if size <= args.whole:
            yield dataset.row('run', size, dataset.start())
        else:
            dataset.copy_outputs(args.rest)
        yield dataset.row('group', 0, dataset.start(level='group'))
        if size > args.whole:
            yield dataset.row('rest', args.rest, dataset.start())
        yield dataset.row('again', 0, dataset.start())
        shutil.rmtree(dataset.folder)
    if not args.scan.exists():
        print(f'{args.scan}: no such file; the shipped model is not measured', file=sys.stderr)
        return
    for size in SHIPPED:
        dataset = Dataset(folder / f'shipped{size}', size, args.scan, 'default', args.nprocs)
        yield dataset.row('shipped', size, dataset.start())
        shutil.rmtree(dataset.folder)


@dataclass
class Dataset:
    """A dataset of scans that are all the same, and its outputs.

    Attributes
    ----------
    folder : Path
    size : int
        Number of scans, one for each participant.
    scan : Path
    model : str
    nprocs : int
    """

    folder: Path
    size: int
    scan: Path
    model: str
    nprocs: int

    def __post_init__(self) -> None:
        write_description(self.raw, 'Scale')
        for name in self.participants:
            anat = self.raw / name / 'anat'
            anat.mkdir(parents=True)
            shutil.copyfile(self.scan, anat / f'{name}_T1w.nii.gz')

    @property
    def raw(self) -> Path:
        """Folder of the scans."""
        return self.folder / 'raw'

    @property
    def out(self) -> Path:
        """Folder of the outputs."""
        return self.folder / 'out'

    @property
    def participants(self) -> list[str]:
        """Names of their folders."""
        return [f'sub-{number:06d}' for number in range(self.size)]

    def start(self, *more: str, level: str = 'participant') -> Usage:
        """Run the app; show its output if it fails."""
        arguments = [self.raw, self.out, level, '--model', self.model, '--device', 'cpu']
        arguments += ['--nprocs', self.nprocs, '--omp-nthreads', 1, '--skip-bids-validation']
        arguments += ['-w', self.folder / 'work', *more]
        command = [sys.executable, '-m', 'synthseg_bids.app.main', *map(str, arguments)]
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        used = watch(command, environment)
        if used.code:
            raise SystemExit(f'{used.stderr[-2000:]}\nexit code {used.code}')
        return used

    def row(self, what: str, segmented: int, used: Usage) -> Row:
        """Return a line of the table."""
        first, last = self._marks()
        outputs, work = (count_files(self.folder / name) for name in ('out', 'work'))
        row: Row = {
            'what': what,
            'scans': self.size,
            'segmented': segmented,
            'seconds': round(used.seconds, 2),
            'cpu_seconds': round(used.cpu_seconds, 2),
            'peak_mb': round(used.peak_mb, 1),
            'open_files': used.open_files,
            'output_files': outputs[0],
            'output_mb': round(outputs[1] / 1e6, 3),
            'work_files': work[0],
            'work_mb': round(work[1] / 1e6, 3),
        }
        if segmented:
            row['between_seconds'] = round(last - first, 2)
        return row | {
            'nprocs': self.nprocs,
            'load': round(used.load, 1),
            'cpu': cpu_name(),
            'version': __version__,
        }

    def _marks(self) -> tuple[float, float]:
        """Return when the first scan of the last run was started and the last one was done."""
        logs = sorted(self.out.glob('logs/*/synthseg-bids.log'))
        lines = logs[-1].read_text().splitlines() if logs else []
        times = [
            datetime.strptime(line[:23], '%Y-%m-%d %H:%M:%S,%f').timestamp()
            for line in lines
            if line.endswith(': started') or ': done (' in line
        ]
        return (times[0], times[-1]) if times else (0, 0)

    def copy_outputs(self, rest: int) -> None:
        """Segment the first scan and take its outputs for those of all but the last ones."""
        first, *others = self.participants
        self.start('--participant-label', first)
        paths = [path for path in (self.out / first).rglob('*') if path.is_file()]
        contents = {path: path.read_bytes() for path in paths}
        for name in others[:-rest]:
            for path, content in contents.items():
                place = Path(str(path).replace(first, name))
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content.replace(first.encode(), name.encode()))
            for marker in (self.out / name).rglob('*_dseg.json'):
                self.note_again(marker)

    def note_again(self, marker: Path) -> None:
        """Note the outputs of an image that were copied from another one."""
        sidecar = json.loads(marker.read_text())
        sidecar['Outputs'] = {name: record(self.out / name) for name in sidecar['Outputs']}
        marker.write_text(seal(sidecar))


def count_files(folder: Path) -> tuple[int, int]:
    """Return the number of files and folders below a folder, and the bytes of the files."""
    paths = list(folder.rglob('*'))
    return len(paths), sum(path.stat().st_size for path in paths if path.is_file())


def add_row(path: Path, row: Row) -> None:
    """Add a line to the table; it replaces the one of the same kind and size."""
    key = (str(row['what']), str(row['scans']))
    rows = [old for old in read_table(path) if (old['what'], old['scans']) != key]
    write_table(path, COLUMNS, [*rows, row])


if __name__ == '__main__':
    sys.exit(main())
