"""Fit which Dice a network's confidence lets expect, and check it on real scans.

Usage: python benchmarks/expected_dice.py [--model MODEL] [--data DIR] ...

For each group of structures, the mean Dice is an increasing function of the mean confidence: an
isotonic regression over scans made from label maps that the model was not trained on. These are
scans as ``make accuracy`` makes them, and taken from its tables where it has measured this model;
clear ones, whose Dice is high; and degraded ones, whose Dice is low. The fit goes to
synthseg_bids/data/expected_dice.json, from where quality control takes it. Real scans with
references are not used for it, but are compared with it. All scans are in
docs/qc/expected_dice.tsv: those of this model are not segmented again. Run docs/build.py qc
afterwards. Under fifteen minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from accuracy import DATA, REPOSITORY
from accuracy.lesions import LESION_REFERENCE
from accuracy.real import OTHER_PROTOCOL, SOURCES, TEMPLATES, Source, read_sources, without
from degraded import DEGRADED, Degradation
from expected_dice_fit import REAL, draw, fit, heads
from synthetic import CLEAR, CONDITIONS, HELD_OUT, Recipe, held_out_maps, list_recipes

from synthseg_bids.files import read_table, write_json, write_table
from synthseg_bids.hardware.device import set_threads
from synthseg_bids.images.volume_io import read_label_map, read_volume
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import channels_of
from synthseg_bids.measure.overlap import compare_to_reference, dice_per_label
from synthseg_bids.measure.qc_limits import QC_GROUPS
from synthseg_bids.measure.summary import mean_of_known

TARGET = REPOSITORY / 'synthseg_bids' / 'data' / 'expected_dice.json'
TABLES = REPOSITORY / 'docs'
COLUMNS = ('model', 'kind', 'scan', 'group', 'confidence', 'dice')
#: Digits of a model's checksum that tell it apart.
DIGITS = 12
#: Preset of the scans that are degraded: those of which most is left.
GOOD = 'midl2020'

Rows = list[dict[str, str]]
Values = Mapping[int, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what has not been measured, then fit and draw."""
    args = build_parser().parse_args(argv)
    set_threads(args.threads)
    segmenter = Segmenter(args.model, args.device)
    sha256 = segmenter.card.sha256
    paths = held_out_maps(args.data / 'label_maps', args.held_out, segmenter.card)
    if len(paths) < 2:
        raise SystemExit(f'{paths[0]}: errors are found on other heads; hold out two or more')
    table = args.docs / 'qc' / 'expected_dice.tsv'
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read_table(table) if row['model'] == sha256[:DIGITS]]
    rows += [] if rows else measured_before(args.docs / 'accuracy', sha256)
    done = {(row['kind'], row['scan']) for row in rows}
    for kind, scan, measure in list_scans(segmenter, paths, args.scans, args.data):
        if (kind, scan) not in done:
            print(kind, scan, file=sys.stderr, flush=True)
            rows += rows_of(sha256, kind, scan, *measure())
            write_table(table, COLUMNS, rows)
    fitted = {group: [r for r in rows if r['group'] == group and r['kind'] != REAL]
              for group in QC_GROUPS}  # fmt: skip
    # A network may find nothing of a group.
    groups = {group: fit(own) for group, own in fitted.items() if len(heads(own)) > 1}
    origin = {
        'written_by': 'benchmarks/expected_dice.py',
        'model': segmenter.card.name,
        'model_sha256': sha256,
        'label_maps': [path.name for path in paths],
        'scans': len({r['scan'] for r in rows if r['kind'] in CONDITIONS}),
        'clear_scans': len({r['scan'] for r in rows if r['kind'] == CLEAR}),
        'degraded_scans': len({(r['kind'], r['scan']) for r in rows if r['kind'] in DEGRADED}),
    }
    write_json(args.out, {'origin': origin, 'groups': groups})
    draw(rows, groups, table.with_suffix('.png'))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--model', default='default')
    parser.add_argument('--data', type=Path, default=DATA, help='label maps and real scans')
    parser.add_argument('--held-out', nargs='+', default=HELD_OUT, metavar='NAME')
    parser.add_argument('--scans', type=int, default=2, help='per label map and condition')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int)
    parser.add_argument('--docs', type=Path, default=TABLES, help='where the tables lie')
    parser.add_argument('--out', type=Path, default=TARGET)
    return parser


def measured_before(tables: Path, sha256: str) -> Rows:
    """Return what ``make accuracy`` has measured of a model, on generated scans."""
    run = {row['fact']: row['value'] for row in read_table(tables / 'generated_run.tsv')}
    if run.get('SHA-256') != sha256:
        return []
    confidence, dice = (
        by_scan(tables / f'generated_{name}.tsv', column)
        for name, column in (('confidence', 'confidence'), ('scans', 'dice'))
    )
    return [
        row
        for scan in confidence
        for row in rows_of(sha256, scan.rpartition('_')[2], scan, confidence[scan], dice[scan])
    ]


def by_scan(path: Path, column: str) -> dict[str, dict[int, float]]:
    """Read the values of labels by scan; NaN where they are unknown."""
    found: dict[str, dict[int, float]] = {}
    for row in read_table(path):
        if row.get('kind', 'label') == 'label':
            value = math.nan if row[column] == 'n/a' else float(row[column])
            found.setdefault(row['scan'], {})[int(row['index'])] = value
    return found


def rows_of(sha256: str, kind: str, scan: str, confidence: Values, dice: Values) -> Rows:
    """Average over the structures of each group; leave out those of which nothing is known."""
    rows = []
    for group, members in QC_GROUPS.items():
        means = [mean_of_known([of[label] for label in members]) for of in (confidence, dice)]
        if not any(math.isnan(mean) for mean in means):
            cells = (sha256[:DIGITS], kind, scan, group, *(f'{mean:.4f}' for mean in means))
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def list_scans(
    segmenter: Segmenter, paths: Sequence[Path], scans: int, data: Path
) -> Iterator[tuple[str, str, Callable[[], tuple[Values, Values]]]]:
    """List kind and name of every scan, and what measures its confidence and Dice by label."""
    for name, recipe in list_recipes(paths, scans, (*CONDITIONS, CLEAR)).items():
        yield recipe.condition, name, partial(measure_generated, segmenter, recipe)
    for source in read_sources(SOURCES):
        folder = data / source.data_set / source.participant
        if source.group != TEMPLATES and folder.is_dir():
            name = f'{source.participant} {source.contrast}'
            yield REAL, name, partial(measure_real, segmenter, source, data / source.data_set)
    for recipe in list_recipes(paths, 1, [GOOD]).values():
        for kind, degrade in DEGRADED.items():
            yield kind, recipe.stem, partial(measure_generated, segmenter, recipe, degrade)


def measure_generated(
    segmenter: Segmenter, recipe: Recipe, degrade: Degradation | None = None
) -> tuple[Values, Values]:
    """Segment a scan made from a label map; return confidence and Dice by label."""
    image, labels, affine = make(recipe)
    if degrade is not None:
        image, labels = degrade(image, labels, affine, recipe.seed)
    found = segmenter.segment(image, affine)
    confidence = confidence_by_label(found.report.confidence)
    return confidence, dice_per_label(found.labels, labels, [*confidence])


def confidence_by_label(confidence: Sequence[float]) -> Values:
    """Name the channels of a network."""
    labels = (label.index for label in channels_of(len(confidence)))
    return dict(zip(labels, confidence, strict=True))


@lru_cache(maxsize=1)
def make(recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a scan, once for all that is done to it."""
    return recipe.make()


def measure_real(segmenter: Segmenter, source: Source, folder: Path) -> tuple[Values, Values]:
    """Segment a real scan; return confidence and Dice with its reference by label."""
    name = source.participant
    (path,) = (folder / name / 'anat').glob(f'{name}_{source.contrast}.nii*')
    references = (folder / 'derivatives' / 'reference' / name / 'anat').glob('*_dseg.nii.gz')
    (reference,) = (p for p in references if LESION_REFERENCE not in p.name)
    scan, truth = read_volume(path), read_label_map(reference)
    found = segmenter.segment(scan.data, scan.affine)
    compared = compare_to_reference(
        found.labels, scan.affine, truth.data, truth.affine, str(reference)
    )
    compared = without(compared, OTHER_PROTOCOL.get(source.group, ()))
    confidence = confidence_by_label(found.report.confidence)
    return confidence, {row['index']: row['dice'] for row in compared if 'index' in row}


if __name__ == '__main__':
    sys.exit(main())
