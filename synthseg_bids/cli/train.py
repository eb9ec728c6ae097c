"""``synthseg train``: train a network on synthetic scans of label maps.

OUT receives ``checkpoint.pt`` (the same command resumes from it), the network as
``model.safetensors`` with its card ``model.json``, and the learning curve as TSV and PNG.
"""

from __future__ import annotations

import argparse
import csv
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .synthesize import PRESET_NAMES

if TYPE_CHECKING:
    from ..training import Progress, Trainer, TrainingConfig

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'train',
        help='train a network on label maps',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('label_maps', type=Path, help='folder of label maps, or BIDS derivatives with dseg files')
    add('out', type=Path, help='output folder')
    add('--preset', choices=PRESET_NAMES, default='synthseg-bids')
    add('--start-from', metavar='MODEL', help='shipped model or weights file to start from')
    add('--validate-on', nargs='*', default=[], metavar='NAME', help='label maps to hold out')
    add('--steps', type=int, default=100_000)
    add('--batch-size', type=int, default=1)
    add(
        '--optimizer',
        choices=['adamw', 'muon'],
        default='adamw',
        help='adamw, or muon for the weights of convolutions',
    )
    add('--learning-rate', type=float, default=1e-2)
    add('--decay-fraction', type=float, default=0.4, help='part of the run that lowers the rate')
    add('--wl2-steps', type=int, default=0, help='warm-up steps with the wl2 loss')
    add('--downsampling', type=int, default=1, help='voxels per output voxel: 2 trains at 2 mm')
    add('--size', type=int, nargs=3, help='crop in label-map voxels (default: the preset)')
    add('--features', type=int, default=24)
    add('--levels', type=int, default=5)
    add('--encoder-convs', type=int, default=2)
    add('--decoder-convs', type=int, default=2)
    add('--skip', choices=('concat', 'add'), default='concat')
    add('--norm', choices=('instance', 'batch', 'none'), default='instance')
    add('--norm-placement', choices=('conv', 'level'), default='conv')
    add('--epoch-steps', type=int, default=500, help='steps between validations')
    add('--compile', action='store_true', help='compile the network (GPU)')
    add('--seed', type=int, default=0)
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    add('--threads', type=int, help='CPU threads')
    parser.set_defaults(run=run)


def _config(args: argparse.Namespace) -> TrainingConfig:
    from dataclasses import replace

    from ..network import NetworkConfig
    from ..synth.generator import PRESETS
    from ..training import TrainingConfig

    generator = replace(PRESETS[args.preset], downsampling=args.downsampling)
    if args.size:
        generator = replace(generator, size=tuple(args.size))
    return TrainingConfig(
        network=NetworkConfig(
            features=args.features,
            levels=args.levels,
            encoder_convs=args.encoder_convs,
            decoder_convs=args.decoder_convs,
            norm=args.norm,
            norm_placement=args.norm_placement,
            skip=args.skip,
        ),
        generator=generator,
        steps=args.steps,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        decay_fraction=args.decay_fraction,
        wl2_steps=args.wl2_steps,
        epoch_steps=args.epoch_steps,
        seed=args.seed,
        compile=args.compile,
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..device import resolve_device, set_threads
    from ..synth.files import LabelMapError, find_label_maps, load_label_map
    from ..training import Trainer
    from ..weights import load_model

    set_threads(args.threads)
    paths = find_label_maps(args.label_maps)
    held_out = [p for p in paths if any(name in p.name for name in args.validate_on)]
    training = [p for p in paths if p not in held_out]
    if not training:
        raise LabelMapError(f'{args.label_maps}: every label map is held out for validation')
    args.out.mkdir(parents=True, exist_ok=True)
    logger.info('%d label maps to train on, %d to validate on', len(training), len(held_out))
    trainer = Trainer(
        _config(args),
        [load_label_map(p) for p in training],
        [load_label_map(p) for p in held_out],
        resolve_device(args.device),
    )
    checkpoint = args.out / 'checkpoint.pt'
    curve: list[dict[str, Any]] = []
    if checkpoint.exists():
        trainer.resume(checkpoint)
        curve = [row for row in _read_curve(args.out) if row['step'] <= trainer.step]
        logger.info('resumed at step %d', trainer.step)
    elif args.start_from:
        trainer.start_from(*load_model(args.start_from))
    return _train(trainer, args.out, curve)


def _train(trainer: Trainer, out: Path, curve: list[dict[str, Any]]) -> int:
    from tqdm import tqdm

    bar = tqdm(
        total=trainer.config.steps,
        initial=trainer.step,
        unit='step',
        disable=not sys.stderr.isatty(),
    )

    # A step cut in half would leave weights and step number at odds, so that interrupts wait
    # for its end.
    interrupts: list[int] = []
    previous = {
        number: signal.signal(number, lambda n, _: interrupts.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def on_step(_: Trainer, loss: float) -> None:
        bar.set_postfix(loss=f'{loss:.3f}', refresh=False)
        bar.update()
        if interrupts:
            raise KeyboardInterrupt

    def on_epoch(trainer: Trainer, progress: Progress) -> None:
        curve.append(progress.row())
        logger.info('%s', '  '.join(f'{k} {v:.4g}' for k, v in curve[-1].items()))
        _save(trainer, out, curve)

    try:
        trainer.run(on_epoch, on_step)
    except KeyboardInterrupt:
        logger.info('interrupted; saving step %d', trainer.step)
        _save(trainer, out, curve)
        return 130
    finally:
        bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _save(trainer: Trainer, out: Path, curve: list[dict[str, Any]]) -> None:
    """Write checkpoint, network, learning curve."""
    from ..reports.figures import learning_curve
    from ..weights import save_model

    trainer.save(out / 'checkpoint.pt')
    save_model(out / 'model.safetensors', trainer.average, trainer.card(out.name, curve))
    if curve:
        with open(out / 'learning_curve.tsv', 'w', newline='', encoding='utf-8') as stream:
            writer = csv.DictWriter(stream, curve[0].keys(), delimiter='\t', lineterminator='\n')
            writer.writeheader()
            writer.writerows(curve)
        learning_curve(curve, out / 'learning_curve.png')


def _read_curve(out: Path) -> list[dict[str, Any]]:
    path = out / 'learning_curve.tsv'
    if not path.exists():
        return []
    with open(path, newline='', encoding='utf-8') as stream:
        rows = csv.DictReader(stream, delimiter='\t')
        return [{k: float(v) if k != 'step' else int(v) for k, v in r.items()} for r in rows]
