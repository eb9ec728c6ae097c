"""Scans generated from label maps that the model was not trained on, compared with the truth."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np
from confidence import write_confidence
from synthetic import CONDITIONS, Recipe, draw_worst, list_recipes

from synthseg_bids.images.volume_io import write_image
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.models.card import read_card
from synthseg_bids.models.registry import model_path
from synthseg_bids.synth.label_maps import find_label_maps, is_named

from .steps import call


def measure_generated(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """Segment scans made from held-out label maps; return the facts of the run."""
    folder = args.data / 'label_maps' if args.label_maps is None else args.label_maps
    maps = find_label_maps(folder) if folder.exists() else []
    paths = [p for p in maps if is_named(p, args.held_out)][: args.limit]
    if not paths:
        print(f'{folder}: no label map of {" ".join(args.held_out)}; skipped')
        return {}
    card = read_card(model_path(args.model))
    if seen := card.trained_on(paths):
        raise SystemExit(f'{", ".join(seen)}: the model was trained on it; hold out others')
    segmenter = Segmenter(args.model, args.device)
    recipes = list_recipes(paths, args.scans, args.conditions)
    wanted = {work / 'derivatives' / recipe.segmentation_name for recipe in recipes.values()}
    for path in (work / 'derivatives').rglob('*_dseg.nii.gz'):
        if path not in wanted:
            path.unlink()
    segmented = {name: segment_recipe(segmenter, recipe, work) for name, recipe in recipes.items()}
    tables = args.docs / 'accuracy'
    tables.mkdir(parents=True, exist_ok=True)
    write_confidence(tables / 'generated_confidence.tsv', segmented)
    options = ['--parts', 'generated', '--label-maps', folder, '--held-out', *args.held_out]
    options += ['--scans', args.scans, '--model', args.model, '--device', args.device]
    options += ['--limit', args.limit] if args.limit else []
    if set(args.conditions) != {*CONDITIONS}:
        options += ['--conditions', *args.conditions]
    evaluation = evaluate(work)
    draw_worst(recipes, work / 'evaluation' / 'dice_scans.tsv', work / 'derivatives', tables)
    return {
        'Label maps': ', '.join(path.name for path in paths),
        'Scans': f'{args.scans} per label map and condition',
        'Command 1': f'PYTHONPATH=benchmarks python -m accuracy {shlex.join(map(str, options))}',
        'Command 2': evaluation,
    }


def segment_recipe(segmenter: Segmenter, recipe: Recipe, work: Path) -> np.ndarray:
    """Make and segment one scan; write its labels and the segmentation as BIDS derivatives.

    Returns
    -------
    (2, n_channels) float array
        Mean posterior, and Dice of both passes, of each label; see
        :class:`~synthseg_bids.inference.result.Segmentation`.
    """
    segmentation = work / 'derivatives' / recipe.segmentation_name
    # Written last: it tells which model the segmentation is of.
    record = work / 'measures' / f'{recipe.stem}.npz'
    if record.exists() and segmentation.exists():
        with np.load(record) as saved:
            if saved['model'] == segmenter.card.sha256:
                return saved['measures']
    print(recipe.path.name, recipe.stem, flush=True)
    image, labels, affine = recipe.make()
    found = segmenter.segment(image, affine)
    for path, data in (
        (work / 'labels' / recipe.labels_name, labels),
        (segmentation, found.labels),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, data, affine)
    measures = np.stack([found.report.confidence, found.report.flip_dice])
    record.parent.mkdir(parents=True, exist_ok=True)
    np.savez(record, measures=measures, model=segmenter.card.sha256)
    return measures


def evaluate(work: Path) -> str:
    """Run ``synthseg evaluate``; return its command line."""
    code, command = call(
        'synthseg', 'evaluate', work / 'derivatives', '--reference', f'labels={work / "labels"}',
        '--out', work / 'evaluation',
    )  # fmt: skip
    if code:
        raise SystemExit(f'exit code {code} from: {command}')
    return command.replace(str(work), 'OUT')
