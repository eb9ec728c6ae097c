"""Ablation of the generative model, one part at a time; writes docs/ablation.tsv and .rst.

Usage: python benchmarks/ablation.py [--variants NAME ...] [--steps N] [--page-only]

Small networks at 2 mm are trained in the same way on scans generated in different ways, and
measured on the same held-out label maps, and on real scans that nothing is chosen by. A variant
takes ten to twenty minutes on a core; the table keeps those that were run before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accuracy import DATA, REPOSITORY
from page import cpu_name, render

from synthseg_bids.files import read_table, write_table, write_text
from synthseg_bids.hardware.device import set_threads
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.measure.overlap import paper_dice
from synthseg_bids.models.unet import NetworkConfig
from synthseg_bids.synth.artefacts import ArtefactConfig
from synthseg_bids.synth.label_maps import LabelMap, find_label_maps, is_named, load_label_map
from synthseg_bids.synth.parameters import GeneratorConfig
from synthseg_bids.synth.presets import PRESETS, VALIDATION_PRESETS, evaluation_config
from synthseg_bids.synth.texture import TextureConfig
from synthseg_bids.synth.ventricles import VentricleConfig
from synthseg_bids.training.config import TrainingConfig
from synthseg_bids.training.real_scans import find_pairs, load_pairs
from synthseg_bids.training.trainer import Trainer

REAL = 'real sequences'
#: Held-out scans of each kind per label map.
REPEATS = 3


def _realistic(config: GeneratorConfig, probability: float) -> GeneratorConfig:
    intensity = replace(config.intensity, realistic_probability=probability)
    return replace(config, intensity=intensity)


#: Of the generated scans that networks train on, but for one thing.
BASE = replace(
    PRESETS['synthseg-bids'], downsampling=2, ventricles=None, texture=None, artefacts=None
)
CUTS = ArtefactConfig(ghost_probability=0)


@dataclass(frozen=True)
class Variant:
    """The preset ``synthseg-bids`` without what it got last, changed in one thing."""

    text: str
    change: Callable[[GeneratorConfig], GeneratorConfig] = lambda config: config
    seed: int = 0


VARIANTS = {
    'preset': Variant('The preset without textures, lesions, cuts, ghosts, wide ventricles'),
    'seed': Variant('The same, another seed', seed=1),
    'texture': Variant(
        'With textures, lesions and cuts',
        lambda c: replace(c, texture=TextureConfig(), artefacts=CUTS),
    ),
    'ventricles': Variant(
        'With wide ventricles', lambda c: replace(c, ventricles=VentricleConfig())
    ),
    'random': Variant('Random contrasts alone', lambda c: _realistic(c, 0)),
    'realistic': Variant('Contrasts of real sequences alone', lambda c: _realistic(c, 1)),
    'no-blur': Variant('No blur of scans at full resolution', lambda c: replace(c, blur=(0, 0))),
    'full': Variant('No coarse resolutions', lambda c: replace(c, resolution=None)),
    'head': Variant('No skull stripping', lambda c: replace(c, skull_strip_probability=0)),
}
CONDITIONS = (*VALIDATION_PRESETS, REAL)
COLUMNS = ('variant', 'steps', *CONDITIONS, 'T1w', 'T2w', 'seconds', 'cpu')


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the variants, then write the page."""
    args = parse(argv)
    set_threads(args.threads)
    path = args.docs / 'ablation.tsv'
    rows = {row['variant']: row for row in read_table(path)}
    names = [] if args.page_only else args.variants
    maps = [load_label_map(p) for p in find_label_maps(args.label_maps)] if names else []
    for name in names:
        rows[name] = {'variant': name, **measure(VARIANTS[name], args, maps)}
        print(*rows[name].items())
        write_table(path, COLUMNS, [rows[name] for name in VARIANTS if name in rows])
    write_text(args.docs / 'ablation.rst', page(read_table(path)))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    add('--steps', type=int, default=400)
    add('--features', type=int, default=16)
    add('--label-maps', type=Path, default=DATA / 'label_maps')
    add('--held-out', nargs='+', default=[f'sub-{i}' for i in range(13, 17)], metavar='NAME')
    add('--bids', type=Path, default=DATA / 'bids')
    add('--references', type=Path, default=DATA / 'bids/derivatives/reference')
    add('--threads', type=int)
    add('--docs', type=Path, default=REPOSITORY / 'docs')
    add('--page-only', action='store_true', help='rewrite the page from its table')
    return parser.parse_args(argv)


def measure(
    variant: Variant, args: argparse.Namespace, maps: Sequence[LabelMap]
) -> dict[str, object]:
    """Train a network; return its Dice on each kind of scan."""
    trainer = make_trainer(variant, args, maps)
    trainer.run(lambda trainer, progress: None)
    base = trainer.config.generator
    # All variants are measured on the same realistic scans, those of the base model.
    real = _realistic(BASE, 1)
    configs = {name: evaluation_config(name, base) for name in VALIDATION_PRESETS}
    found: dict[str, object] = dict(trainer.validate({**configs, REAL: real}))
    contrasts: dict[str, list[float]] = {}
    for contrast, dice in real_scans(trainer, args):
        contrasts.setdefault(contrast, []).append(dice)
    found |= {contrast: float(np.mean(values)) for contrast, values in contrasts.items()}
    return {**found, 'steps': trainer.step, 'seconds': trainer.seconds, 'cpu': cpu_name()}


def make_trainer(variant: Variant, args: argparse.Namespace, maps: Sequence[LabelMap]) -> Trainer:
    aside = [one for one in maps if is_named(one.name, args.held_out)]
    config = TrainingConfig(
        network=NetworkConfig(features=args.features, decoder_convs=1, skip='add'),
        generator=variant.change(BASE),
        steps=args.steps,
        optimizer='muon',
        learning_rate=4e-3,
        decay_fraction=1,
        # Measured once, at the end.
        epoch_steps=args.steps + 1,
        seed=variant.seed,
    )
    return Trainer(config, [one for one in maps if one not in aside], REPEATS * aside)


def real_scans(trainer: Trainer, args: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Segment the real scans; yield contrast and Dice of each."""
    if not args.references.exists():
        return
    engine = Engine(trainer.average, torch.device('cpu'))
    segmenter = Segmenter.from_engine(engine, trainer.card('network'))
    for pair in load_pairs(find_pairs(args.bids, {'reference': args.references})):
        labels = segmenter.segment(pair.image, pair.affine).labels
        yield pair.contrast, paper_dice(labels, pair.folded)['mean']


def page(rows: Sequence[dict[str, str]]) -> str:
    """Make the page from its table."""
    first, columns = rows[0], (*CONDITIONS, 'T1w', 'T2w')
    lines = []
    for row in rows:
        cells = [f'{float(row[c]):.3f}' if row[c] != 'n/a' else 'n/a' for c in columns]
        lines.append([VARIANTS[row['variant']].text, *cells])
    header = ['Generated scans', *CONDITIONS, 'real T1w', 'real T2w']
    took = [round(float(row['seconds']) / 60) for row in rows]
    minutes = f'{min(took)} to {max(took)}' if min(took) < max(took) else f'{took[0]}'
    measured = [row['variant'] for row in rows]
    return render(
        'ablation', head=header, rows=lines, steps=first['steps'], minutes=minutes,
        cpu=first['cpu'], count=4 * REPEATS,
        missing=[v.text for name, v in VARIANTS.items() if name not in measured],
    )  # fmt: skip


if __name__ == '__main__':
    raise SystemExit(main())
