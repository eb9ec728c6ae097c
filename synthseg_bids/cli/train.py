"""``synthseg train``: train a network on synthetic scans of label maps.

With --priors, intensities are those of real contrasts (SynthSeg-rule). With --images, and without
LABEL_MAPS, the network is trained on real scans and their references (supervised baseline).

Writes to OUT: ``checkpoint.pt`` (the same command resumes from it), the network as
``model.safetensors`` with its card ``model.json``, and the learning curve as TSV and PNG.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..inference.options import LESIONS
from .estimate_priors import add_pair_options
from .synthesize import PRESET_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..synth.label_maps import LabelMap
    from ..training.distributed import ProcessGroup
    from ..training.trainer import Progress, Trainer, TrainingConfig

logger = logging.getLogger(__name__)

#: Options with a single value: name, default or choices (the first is the default), help.
OPTIONS: tuple[tuple[str, int | float | tuple[str, ...], str], ...] = (
    ('--preset', PRESET_NAMES[::-1], 'settings of the generator'),
    ('--steps', 100_000, 'steps of the whole run, those before a resumption included'),
    ('--batch-size', 1, 'scans per step and process'),
    ('--optimizer', ('adamw', 'muon'), 'AdamW, or Muon (Jordan et al. 2024) for convolutions'),
    ('--learning-rate', 1e-2, 'peak of the learning rate, after a warm-up of 200 steps'),
    ('--decay-fraction', 0.4, 'last part of the run, with a decay of the learning rate to zero'),
    ('--lesions', LESIONS, 'white-matter lesions are a label (77), or white matter'),
    ('--lesion-weight', 1.0, 'weight of the voxels of lesions in the cross-entropy'),
    ('--wl2-steps', 0, 'warm-up steps with the wl2 loss'),
    ('--downsampling', 1, 'label-map voxels per output voxel: 2 trains at 2 mm'),
    ('--features', 24, 'features of the first level, doubled from level to level'),
    ('--deep-features', 0, 'features of the second level, doubled then; 0: 2 x --features'),
    ('--levels', 5, 'levels of the U-Net'),
    ('--encoder-convs', 2, 'convolutions per level of the encoder'),
    ('--decoder-convs', 2, 'convolutions per level of the decoder'),
    ('--skip', ('concat', 'add'), 'skip connections are concatenated or added'),
    ('--sub-voxels', 1, '2: layers at 2 mm, input and output at 1 mm'),
    ('--output-features', 0, 'input features of the output layer; 0: as --features'),
    ('--norm', ('instance', 'batch'), 'normalise with statistics of each scan, or running means'),
    ('--norm-placement', ('conv', 'level'), 'normalisation after every convolution, or per level'),
    ('--epoch-steps', 500, 'steps between validations, each with a checkpoint'),
    ('--seed', 0, 'seed of the initial weights and of all samples'),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'train',
        help='train a network on label maps',
        description=__doc__,
        usage='%(prog)s LABEL_MAPS OUT [--priors JSON] [options]\n'
        '       %(prog)s --images BIDS_DIR --reference NAME=PATH OUT [options]',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('label_maps', type=Path, metavar='LABEL_MAPS', help='folder or BIDS derivatives')
    add('out', type=Path, metavar='OUT', nargs='?', help='output folder')
    add('--priors', type=Path, metavar='JSON', help='written by synthseg estimate-priors')
    add('--images', type=Path, metavar='BIDS_DIR', help='dataset of scans to train on')
    add_pair_options(parser)
    add(
        '--start-from',
        action='append',
        metavar='MODEL',
        help='shipped model or weights file to start from; given several times, their average',
    )
    add('--validate-on', nargs='*', default=[], metavar='NAME', help='data to hold out')
    for option, default, text in OPTIONS:
        choices = default if isinstance(default, tuple) else None
        first = choices[0] if choices else default
        add(
            option,
            type=type(first),
            choices=choices,
            default=first,
            help=f'{text} (default: %(default)s)',
        )
    add(
        '--loss-weights',
        type=float,
        nargs=3,
        default=(1, 1, 0),
        metavar=('DICE', 'ENTROPY', 'VOLUME'),
        help='weights of soft Dice, cross-entropy and volume loss (default: 1 1 0)',
    )
    add('--size', type=int, nargs=3, help='crop in label-map voxels (default: the preset)')
    add('--compile', action='store_true', help='compile the network (GPU)')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)')
    add('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    parser.set_defaults(run=run)


def _config(args: argparse.Namespace) -> TrainingConfig:
    from ..labels import network_labels
    from ..models.unet import NetworkConfig
    from ..synth.presets import PRESETS
    from ..training.trainer import TrainingConfig

    # In references of real scans lesions are white matter.
    lesions = args.lesions == 'label' and not args.images
    generator = replace(PRESETS[args.preset], downsampling=args.downsampling, lesion_label=lesions)
    dice, entropy, volume = args.loss_weights
    if args.size:
        generator = replace(generator, size=tuple(args.size))
    if args.priors:
        from ..training.priors import read_priors

        priors = read_priors(args.priors, args.contrast)
        generator = replace(generator, intensity=replace(generator.intensity, priors=priors))
    return TrainingConfig(
        network=NetworkConfig(
            out_channels=len(network_labels(lesions)),
            features=args.features,
            deep_features=args.deep_features,
            levels=args.levels,
            encoder_convs=args.encoder_convs,
            decoder_convs=args.decoder_convs,
            norm=args.norm,
            norm_placement=args.norm_placement,
            skip=args.skip,
            sub_voxels=args.sub_voxels,
            output_features=args.output_features,
        ),
        generator=generator,
        steps=args.steps,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        decay_fraction=args.decay_fraction,
        dice_weight=dice,
        cross_entropy_weight=entropy,
        volume_weight=volume,
        lesion_weight=args.lesion_weight,
        wl2_steps=args.wl2_steps,
        epoch_steps=args.epoch_steps,
        seed=args.seed,
        compile=args.compile,
    )


def _check(args: argparse.Namespace) -> None:
    """Refuse contradictory options, and determine OUT."""
    if args.images:
        if args.out:
            raise UsageError(f'{args.label_maps}: no label maps with --images; give OUT alone')
        if not args.reference:
            raise UsageError(f'--images {args.images}: add --reference NAME=PATH, its label maps')
        if args.priors:
            raise UsageError('--priors: for synthetic scans; leave it out with --images')
        # The only positional argument that was given.
        args.label_maps, args.out = None, args.label_maps
        return
    if not args.out:
        raise UsageError(f'{args.label_maps}: give LABEL_MAPS and OUT, or OUT and --images')
    if args.reference or args.participant_label:
        raise UsageError('--reference and --participant-label choose scans: add --images')
    if args.contrast and not args.priors:
        raise UsageError('--contrast: give the --priors or the --images to choose from')


def _load(args: argparse.Namespace, config: TrainingConfig) -> Sequence[LabelMap]:
    """Read the data for training and validation."""
    if not args.images:
        from ..synth.label_maps import find_label_maps, load_label_map

        size = config.generator.size
        return [load_label_map(path, size) for path in find_label_maps(args.label_maps)]
    from ..training.real_scans import find_pairs, load_pairs
    from ..training.supervised import labelled_scan

    references = dict(args.reference)
    pairs = find_pairs(args.images, references, args.participant_label, args.contrast)
    return [labelled_scan(pair, config.generator.size) for pair in load_pairs(pairs)]


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..hardware.device import set_threads
    from ..training.distributed import join

    _check(args)
    set_threads(args.threads)
    with join(args.device) as ranks:
        if ranks.rank:
            # Only the first process logs.
            logging.getLogger().setLevel(logging.WARNING)
        return _run(args, ranks)


def _run(args: argparse.Namespace, ranks: ProcessGroup) -> int:
    from ..models.registry import load_model
    from ..synth.label_maps import LabelMapError, is_named
    from ..training.run_folder import resume_run
    from ..training.trainer import Trainer

    config = _config(args)
    data = _load(args, config)
    aside = [is_named(one.name, args.validate_on) for one in data]
    held_out = [one for one, out in zip(data, aside, strict=True) if out]
    training = [one for one, out in zip(data, aside, strict=True) if not out]
    if not training:
        raise LabelMapError(
            f'{args.images or args.label_maps}: everything is held out for validation'
        )
    args.out.mkdir(parents=True, exist_ok=True)
    what = training[0].kind.replace('_', ' ')
    logger.info('%d %s to train on, %d to validate on', len(training), what, len(held_out))
    trainer = Trainer(config, training, held_out, ranks.device, ranks)
    curve = resume_run(trainer, args.out)
    if curve is not None:
        logger.info('resumed at step %d', trainer.step)
    elif args.start_from:
        trainer.start_from(*(load_model(model) for model in args.start_from))
    return train(trainer, args.out, curve or [])


def train(trainer: Trainer, out: Path, curve: list[dict[str, Any]]) -> int:
    """Train to the last step, or until interrupted; save after every epoch."""
    from tqdm import tqdm

    bar = tqdm(
        total=trainer.config.steps,
        initial=trainer.step,
        unit='step',
        disable=trainer.ranks.rank > 0 or not sys.stderr.isatty(),
    )

    # Interrupts wait for the end of a step, since a part of a step would make weights and step
    # number inconsistent; and all processes end at the same step.
    interrupts: list[int] = []
    previous = {
        number: signal.signal(number, lambda n, _: interrupts.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def on_step(_: Trainer, loss: float) -> None:
        bar.set_postfix(loss=f'{loss:.3f}', refresh=False)
        bar.update()
        if number := trainer.ranks.largest(max(interrupts, default=0)):
            raise KeyboardInterrupt(number)

    def on_epoch(trainer: Trainer, progress: Progress) -> None:
        curve.append(progress.row())
        logger.info('%s', '  '.join(f'{k} {v:.4g}' for k, v in curve[-1].items()))
        _save(trainer, out, curve)

    try:
        trainer.run(on_epoch, on_step)
    except KeyboardInterrupt as interrupt:
        logger.info('interrupted; saving step %d', trainer.step)
        _save(trainer, out, curve)
        return 128 + interrupt.args[0]
    finally:
        bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _save(trainer: Trainer, out: Path, curve: list[dict[str, Any]]) -> None:
    """Write checkpoint, network and learning curve in the first process."""
    from ..reports.figures import learning_curve
    from ..training.run_folder import save_run

    if trainer.ranks.rank:
        return
    if curve:
        learning_curve(curve, out / 'learning_curve.png')
    save_run(trainer, out, curve, out.name)
