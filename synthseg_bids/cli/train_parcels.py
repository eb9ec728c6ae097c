"""``synthseg train-parcels``: train the network that names the parcels of the cortex.

LABEL_MAPS are FreeSurfer's aparc+aseg of people, on their own grids. With --segmentations, files
whose names begin with the name of a label map are segmentations of that head, in the same world
coordinates: such as those that ``synthseg segment`` makes of synthetic scans. No scan is needed.

Writes to OUT what ``synthseg train`` writes; the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .train import train

if TYPE_CHECKING:
    from ..training.distributed import ProcessGroup
    from ..training.parcel_maps import ParcelMap

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'train-parcels',
        help='train the network of cortical parcels',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('label_maps', type=Path, metavar='LABEL_MAPS', help='folder or BIDS derivatives')
    add('out', type=Path, metavar='OUT', help='output folder')
    add('--segmentations', type=Path, metavar='FOLDER', help='segmentations of the same heads')
    add('--train-on', nargs='*', default=[], metavar='NAME', help='label maps (default: all)')
    add('--validate-on', nargs='*', default=[], metavar='NAME', help='label maps to hold out')
    add('--steps', type=int, default=3000, help='steps of the whole run (default: %(default)s)')
    add('--batch-size', type=int, default=1, help='hemispheres per step (default: %(default)s)')
    add(
        '--learning-rate',
        type=float,
        default=2.5e-3,
        help='peak of the learning rate of Muon (default: %(default)s)',
    )
    add('--epoch-steps', type=int, default=250, help='steps between checkpoints')
    add('--seed', type=int, default=0, help='seed of the initial weights and of all samples')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)')
    add('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..hardware.device import set_threads
    from ..training.distributed import join

    set_threads(args.threads)
    with join(args.device) as ranks:
        if ranks.rank:
            # Only the first process logs.
            logging.getLogger().setLevel(logging.WARNING)
        return _run(args, ranks)


def _run(args: argparse.Namespace, ranks: ProcessGroup) -> int:
    from ..synth.label_maps import find_label_maps, is_named
    from ..training.parcel_maps import load_parcel_map
    from ..training.parcel_trainer import ParcelTrainer, ParcelTrainingConfig
    from ..training.run_folder import resume_run

    paths = find_label_maps(args.label_maps)
    held_out = [path for path in paths if is_named(path, args.validate_on)]
    wanted = [path for path in paths if is_named(path, args.train_on or [''])]
    training = [path for path in wanted if path not in held_out]
    if not training:
        raise UsageError(f'{args.label_maps}: no label map is left to train on; choose others')
    others = find_label_maps(args.segmentations) if args.segmentations else []

    def load(path: Path) -> ParcelMap:
        stem = path.name.partition('.')[0]
        return load_parcel_map(path, [one for one in others if one.name.startswith(stem)])

    config = ParcelTrainingConfig(
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        epoch_steps=args.epoch_steps,
        seed=args.seed,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    logger.info('%d label maps to train on, %d to validate on', len(training), len(held_out))
    maps, apart = [load(path) for path in training], [load(path) for path in held_out]
    trainer = ParcelTrainer(config, maps, apart, ranks.device, ranks)
    curve = resume_run(trainer, args.out)
    if curve is not None:
        logger.info('resumed at step %d', trainer.step)
    return train(trainer, args.out, curve or [])
