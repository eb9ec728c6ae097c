"""``synthseg calibrate``: turn a network's posteriors into probabilities.

Fits the temperature of its logits on synthetic scans of some held-out label maps, and measures
the expected calibration error before and after on those of others. OUT is the network with that
temperature in its output layer; both errors are on the card beside it.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'calibrate',
        help="fit the temperature of a network's posteriors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('model', metavar='MODEL', help='shipped model or weights file')
    add('label_maps', type=Path, metavar='LABEL_MAPS', help='folder of label maps')
    add('out', type=Path, metavar='OUT', help='.safetensors file; may be MODEL itself')
    add('--fit-on', nargs='+', required=True, metavar='NAME', help='label maps to fit on')
    add('--check-on', nargs='+', required=True, metavar='NAME', help='label maps to measure on')
    add('--scans', type=int, default=2, help='per label map and preset (default: %(default)s)')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)')
    add('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..hardware.device import resolve_device, set_threads
    from ..inference.engine import Engine
    from ..models.card import number_format, save_model
    from ..models.registry import load_model
    from ..synth.label_maps import LabelMapError, find_label_maps, is_named, load_label_map
    from ..training.calibration import (
        averaged,
        calibration_error,
        fit_temperature,
        set_temperature,
        synthetic_logits,
    )

    if args.out.suffix != '.safetensors':
        raise ValueError(f'{args.out}: give a name that ends in .safetensors')
    paths = find_label_maps(args.label_maps)
    fit, check = (
        [p for p in paths if is_named(p, names)] for names in (args.fit_on, args.check_on)
    )
    if not fit or not check or {*fit} & {*check}:
        raise LabelMapError(
            f'{args.label_maps}: --fit-on found {len(fit)} label maps, --check-on {len(check)}, '
            'some of them the same or none; name different ones'
        )
    network, card = load_model(args.model)
    if seen := card.trained_on([*fit, *check]):
        raise LabelMapError(f'{", ".join(seen)}: {card.name} was trained on it')
    set_threads(args.threads)
    engine = Engine(network, resolve_device(args.device))
    *passes, target = synthetic_logits(engine, [load_label_map(p) for p in fit], card, args.scans)
    temperature = fit_temperature(passes, target)
    *passes, target = synthetic_logits(
        engine, [load_label_map(p) for p in check], card, args.scans
    )
    before, after = (
        calibration_error(averaged(passes, value), target) for value in (1.0, temperature)
    )
    logger.info('temperature %.3f', temperature)
    logger.info('expected calibration error %.4f before, %.4f after', before, after)
    dtype = number_format(network)
    set_temperature(network, temperature)
    facts = {
        'temperature': temperature,
        'fitted_on': [p.name for p in fit],
        'checked_on': [p.name for p in check],
        'calibration_error_before': before,
        'calibration_error': after,
    }
    validation = {**card.validation, 'calibration': facts}
    save_model(args.out, network, replace(card, validation=validation), dtype)
    return 0
