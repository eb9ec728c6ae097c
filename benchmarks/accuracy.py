"""Measure the accuracy of a model on real and on synthetic scans, and write docs/accuracy.rst.

Usage: python benchmarks/accuracy.py [--bids DIR] [--references DIR] [--label-maps DIR] ...

Real scans: those of a BIDS data set whose participants have reference segmentations. Synthetic
scans: made from label maps that the model was not trained on, hence with exact labels. What is
absent is skipped, and its part of the page stays as it is. Tables, figures and the facts of each
run go to docs/accuracy/; the page is made from them alone (--page-only does just that). Where the
real scans come from is in real_sources.tsv there, which is written by hand.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from page import cpu_name, table
from sureness import sureness_table, write_sureness
from synthetic import CONDITIONS, SLICE_MM, SLICES, WIDE, Recipe, draw_worst, list_recipes

from synthseg_bids.files import read_table, write_table, write_text
from synthseg_bids.hardware.device import fast_dtype, resolve_device, set_threads
from synthseg_bids.images.volume_io import write_image
from synthseg_bids.inference.result import Segmentation
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import PAPER_STRUCTURES
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.summary import ALL_CONTRASTS, MEAN_OF_LABELS
from synthseg_bids.models.card import ModelCard, read_card, sha256
from synthseg_bids.models.registry import model_path
from synthseg_bids.synth.label_maps import find_label_maps, is_named

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path('../shared/data')

HEADER = """\
Accuracy
========

.. Written by benchmarks/accuracy.py (make accuracy) from the tables in accuracy/; do not edit.
"""
INTRODUCTION = """
Overlap (Dice) of the model's segmentations with references. *12 structures* is the mean over
those of the MIDL 2020 paper, left and right averaged; *32 labels* is the mean over every label
but background. Means and standard deviations (SD) are over scans; in brackets is the 95 %
confidence interval of the mean: a bootstrap over scans, which count as independent even where
one head gave several, and too narrow for a handful of them. The overlap of every scan in every
label is in the tables of ``docs/accuracy/``.
"""
REAL = """
Scans with reference segmentations by FreeSurfer or SAMSEG, which are not the truth themselves.
Cerebrospinal fluid outside the ventricles, one of the 32 labels, is all the fluid around the
brain for the model and for SAMSEG, but a small part of it for FreeSurfer. Seconds are those of the
threads named below, on a machine that did other work as well; ``docs/speed.rst`` is the page for
time.
"""
SOURCES = """
They are few: one is a whole head (sub-chris), the others are skull-stripped or templates, and all
have voxels of 0.88 to 1 mm. No real PDw, FLAIR, thick-slice or CT scan has a reference here;
``--ct`` was not evaluated.
"""
FAST = """
The same scans without the mirrored pass: what ``--fast`` saves, and what it costs.
"""
SYNTHETIC = f"""
Scans generated from label maps that the model was not trained on, at their own resolution, and
compared with the exact labels. ``midl2020`` and ``synthseg2023`` are the presets of ``synthseg
synthesize``, cropped around the brain and rescaled as in validation; ``{SLICES}`` is
``synthseg2023`` with slices {SLICE_MM} mm thick and {SLICE_MM} mm apart along one axis, drawn for
each scan, and full resolution within them; ``{WIDE}`` is ``midl2020`` with lateral ventricles of
1.5 to 4 times the volume of those of the label maps. Not trained on does not mean unused:
validation during training, the temperature of the posteriors, the settings of the refinement
(``docs/model_card.rst``) and the limits of quality control (``docs/qc.rst``) come from scans of
these very label maps.
"""
SURENESS = """
Does a segmentation know how good it is? What quality control looks at, beside the true Dice of
these scans: over scans, the means over all structures; and for each structure on its own.
"""
WORST = """
The scan of each kind with the lowest Dice, with the segmentation below:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what there are data for, then write the page."""
    args = parse(argv)
    tables = args.docs / 'accuracy'
    if not args.page_only:
        set_threads(args.threads)
        with tempfile.TemporaryDirectory(prefix='accuracy-') as folder:
            for name, (_, _, measure) in PARTS.items():
                work = Path(folder, name)
                facts = measure(args, work)
                if facts:
                    keep(work / 'evaluation', tables, name, {**describe(args), **facts})
    write_text(args.docs / 'accuracy.rst', page(tables))
    print(f'{args.docs / "accuracy.rst"} written')
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--bids', type=Path, default=DATA / 'bids', help='BIDS data set')
    add('--references', type=Path, default=DATA / 'bids/derivatives/reference', help='of it')
    add('--label-maps', type=Path, default=DATA / 'label_maps', help='file or folder')
    add('--held-out', nargs='+', default=[f'sub-{i}' for i in range(13, 17)], metavar='NAME')
    add('--model', default='default', help='name of a shipped model, or a .safetensors file')
    add('--scans', type=int, default=5, help='synthetic scans per label map and condition')
    add('--limit', type=int, help='at most this many participants and label maps')
    add('--device', default='cpu', help='auto, cpu, cuda or cuda:N')
    add('--threads', type=int, help='CPU threads')
    add('--docs', type=Path, default=REPOSITORY / 'docs', help='where the page goes')
    add('--page-only', action='store_true', help='rewrite the page from its tables')
    return parser.parse_args(argv)


def describe(args: argparse.Namespace) -> dict[str, str]:
    """Name the model and the machine."""
    weights = model_path(args.model)
    card = read_card(weights)
    device = resolve_device(args.device)
    hardware = f'{cpu_name()}, CPU threads: {torch.get_num_threads()}'
    if device.type == 'cuda':
        hardware = f'{torch.cuda.get_device_name(device)}; {hardware}'
    return {
        'Model': f'{card.name} ({card.spacing_mm:g} mm, {card.total_steps} steps)',
        'SHA-256': sha256(weights),
        **calibration(card),
        'Hardware': f'{hardware}, {str(fast_dtype(device)).removeprefix("torch.")}',
    }


def calibration(card: ModelCard) -> dict[str, str]:
    """Say how far the posteriors are from probabilities, if the card does."""
    facts = card.validation.get('calibration')
    if not facts:
        return {}
    return {
        'Calibration': (
            f'expected calibration error {facts["calibration_error"]:.4f}, '
            f'{facts["calibration_error_before"]:.4f} before its temperature was fitted '
            f'({", ".join(facts["fitted_on"])}; measured on {", ".join(facts["checked_on"])})'
        )
    }


def call(program: str, *arguments: object) -> tuple[int, str]:
    """Run one of our programs; return its exit code and the command line."""
    module = {'synthseg-bids': 'synthseg_bids.app.main', 'synthseg': 'synthseg_bids.cli.main'}
    words = [str(argument) for argument in arguments]
    command = [sys.executable, '-m', module[program], *words]
    return subprocess.run(command, check=False).returncode, shlex.join([program, *words])


def evaluate(segmentations: Path, reference: str, work: Path) -> str:
    """Run ``synthseg evaluate``; return its command line."""
    code, command = call(
        'synthseg', 'evaluate', segmentations, '--reference', reference,
        '--out', work / 'evaluation',
    )  # fmt: skip
    if code:
        raise SystemExit(f'exit code {code} from: {command}')
    return command.replace(str(work), 'OUT')


def measure_real(
    args: argparse.Namespace, work: Path, flags: Sequence[str] = ()
) -> dict[str, str]:
    """Segment the participants that have references; return the facts of the run."""
    folders = sorted(
        p.name for p in args.references.glob('sub-*') if (args.bids / p.name).is_dir()
    )
    if not folders:
        print(f'{args.bids}, {args.references}: no participant with a reference; skipped')
        return {}
    options: list[object] = [*flags, '--model', args.model, '--device', args.device]
    options += ['--omp-nthreads', torch.get_num_threads()]
    code, command = call(
        'synthseg-bids', args.bids, work / 'derivatives', 'participant',
        '--participant-label', *(name.removeprefix('sub-') for name in folders[: args.limit]),
        *options, '-w', work / 'work',
    )  # fmt: skip
    if code not in (0, 1):
        raise SystemExit(f'exit code {code} from: {command}')
    status = read_table(work / 'derivatives' / 'group_status.tsv')
    failed = [row['source'].rpartition('/')[2] for row in status if row['status'] == 'failed']
    done = [float(row['seconds']) for row in status if row['status'] == 'done']
    evaluation = evaluate(work / 'derivatives', f'reference={args.references}', work)
    return {
        'Scans': f'{len(done)} segmented, {len(failed)} failed {" ".join(failed)}'.strip(),
        'Seconds per scan (median)': f'{statistics.median(done):.1f}' if done else 'n/a',
        'Command 1': command.replace(str(work), 'OUT'),
        'Command 2': evaluation,
    }


def measure_synthetic(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """Segment scans made from held-out label maps; return the facts of the run."""
    found = find_label_maps(args.label_maps) if args.label_maps.exists() else []
    paths = [p for p in found if is_named(p, args.held_out)][: args.limit]
    if not paths:
        print(f'{args.label_maps}: no label map of {" ".join(args.held_out)}; skipped')
        return {}
    card = read_card(model_path(args.model))
    if seen := card.trained_on(paths):
        raise SystemExit(f'{", ".join(seen)}: the model was trained on it; hold out others')
    segmenter = Segmenter(args.model, args.device)
    segmented = {}
    recipes = list_recipes(paths, args.scans)
    for name, recipe in recipes.items():
        print(recipe.path.name, recipe.condition, flush=True)
        found = segment_synthetic(segmenter, recipe, work)
        segmented[name] = (found.confidence, found.flip_dice)
    tables = args.docs / 'accuracy'
    write_sureness(tables / 'synthetic_sureness.tsv', segmented)
    options = ['--label-maps', args.label_maps, '--held-out', *args.held_out]
    options += ['--scans', args.scans, '--model', args.model, '--device', args.device]
    options += ['--limit', args.limit] if args.limit else []
    evaluation = evaluate(work / 'derivatives', f'labels={work / "labels"}', work)
    draw_worst(recipes, work / 'evaluation' / 'dice_scans.tsv', work / 'derivatives', tables)
    return {
        'Label maps': ', '.join(path.name for path in paths),
        'Scans': f'{args.scans} per label map and condition',
        'Command 1': shlex.join(['python', 'benchmarks/accuracy.py', *map(str, options)]),
        'Command 2': evaluation,
    }


def segment_synthetic(segmenter: Segmenter, recipe: Recipe, work: Path) -> Segmentation:
    """Make and segment one scan; write its labels and the segmentation as BIDS derivatives."""
    image, labels, affine = recipe.make()
    found = segmenter.segment(image, affine)
    for path, data in (
        (work / 'labels' / recipe.labels_name, labels),
        (work / 'derivatives' / recipe.segmentation_name, found.labels),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, data, affine)
    return found


#: Title, text and measurement of each part of the page.
PARTS = {
    'real': ('Real scans', REAL, measure_real),
    'real_fast': ('Real scans with ``--fast``', FAST, partial(measure_real, flags=('--fast',))),
    'synthetic': ('Synthetic scans', SYNTHETIC, measure_synthetic),
}


def keep(evaluation: Path, tables: Path, name: str, facts: dict[str, str]) -> None:
    """Copy tables and figure to the documentation, with the facts of the run."""
    tables.mkdir(parents=True, exist_ok=True)
    for kind in ('scans', 'summary'):
        shutil.copyfile(evaluation / f'dice_{kind}.tsv', tables / f'{name}_{kind}.tsv')
    shutil.copyfile(next(evaluation.glob('dice_*.png')), tables / f'{name}.png')
    rows = [{'fact': key, 'value': value} for key, value in facts.items()]
    write_table(tables / f'{name}_run.tsv', ('fact', 'value'), rows)


def page(tables: Path) -> str:
    """Make the page from the tables."""
    blocks = [HEADER, fill(INTRODUCTION)]
    for name, (title, text, _) in PARTS.items():
        summary = read_table(tables / f'{name}_summary.tsv')
        if not summary:
            continue
        facts = {row['fact']: row['value'] for row in read_table(tables / f'{name}_run.tsv')}
        commands = [value for key, value in facts.items() if key.startswith('Command')]
        blocks += [f'{title}\n{"-" * len(title)}\n', fill(text)]
        if sources := read_table(tables / f'{name}_sources.tsv'):
            lines = [list(row.values()) for row in sources]
            blocks += [fill(SOURCES), table('Where they come from', [*sources[0]], lines)]
        blocks.append(
            ''.join(f':{k}: {v}\n' for k, v in facts.items() if not k.startswith('Command'))
        )
        blocks.append('::\n\n' + ''.join(f'    {line}\n' for line in commands))
        blocks += [means_table(summary), structures_table(summary)]
        blocks.append(
            f'.. image:: accuracy/{name}.png\n   :alt: Dice of each structure and contrast\n'
        )
        measures = tables / f'{name}_sureness.tsv'
        if measures.exists():
            blocks += [fill(WORST), *(f'.. image:: accuracy/worst_{c}.png\n' for c in CONDITIONS)]
            blocks += [fill(SURENESS), sureness_table(measures, tables / f'{name}_scans.tsv')]
    return '\n'.join(blocks)


def fill(text: str) -> str:
    return textwrap.fill(' '.join(text.split()), 95) + '\n'


def means_table(summary: list[dict[str, str]]) -> str:
    """Tabulate the means over structures of each contrast."""

    def cell(row: dict[str, str]) -> str:
        interval = f' [{short(row["ci_low"])} to {short(row["ci_high"])}]'
        return short(row['mean']) + (interval if row['ci_low'] != 'n/a' else '')

    by_key = {(row['contrast'], row['structure']): row for row in summary}
    lines = []
    for contrast in contrasts(summary):
        means = [by_key[contrast, name] for name in (MEAN_NAME, MEAN_OF_LABELS)]
        cells = [text for row in means for text in (cell(row), short(row['sd']))]
        lines.append([contrast, means[0]['n'], *cells])
    return table(
        'Means over structures', ['Contrast', 'Scans', '12 structures', 'SD', '32 labels', 'SD'],
        lines,
    )  # fmt: skip


def structures_table(summary: list[dict[str, str]]) -> str:
    """Tabulate mean and standard deviation of each structure and contrast."""

    def cell(row: dict[str, str]) -> str:
        return short(row['mean']) + (f' ± {short(row["sd"])}' if row['sd'] != 'n/a' else '')

    cells: dict[str, dict[str, str]] = {}
    for row in summary:
        cells.setdefault(row['structure'], {})[row['contrast']] = cell(row)
    columns = contrasts(summary)
    lines = [[name, *(cells[name][contrast] for contrast in columns)] for name in PAPER_STRUCTURES]
    return table('Mean ± SD of each structure', ['Structure', *columns], lines)


def contrasts(summary: list[dict[str, str]]) -> list[str]:
    """List the contrasts in the order of the summary; all of them last, if there are several."""
    found = list(dict.fromkeys(row['contrast'] for row in summary))
    return found if len(found) > 2 else [c for c in found if c != ALL_CONTRASTS]


def short(number: str) -> str:
    return number if number == 'n/a' else f'{float(number):.3f}'


if __name__ == '__main__':
    sys.exit(main())
