"""``synthseg calibrate``: calibrate a network's posteriors by temperature and biases.

Fits a temperature, and a bias of each structure with which its posteriors sum to its true volume,
on synthetic scans of some label maps, and measures the expected calibration error before and after
on those of others, which the network was not trained on. OUT is the network with both in the
weights of its output layer; they and the errors are on its model card.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'calibrate',
        help="fit temperature and biases of a network's posteriors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('model', metavar='MODEL', help='shipped model or weights file')
    add('label_maps', type=Path, metavar='LABEL_MAPS', help='folder of label maps')
    add('out', type=Path, metavar='OUT', help='.safetensors file; may be MODEL itself')
    add('--fit-on', nargs='+', required=True, metavar='NAME', help='label maps for the fit')
    add('--check-on', nargs='+', required=True, metavar='NAME', help='label maps for the error')
    add('--scans', type=int, default=2, help='scans per label map and preset (default: 2)')
    add(
        '--intensity-weight', type=float, metavar='W',
        help='refine segmentations by the intensities of the scan, with this exponent of their '
        'likelihood: 0 (not) to 1 (the shipped network: 0.75; default: that of MODEL)',
    )  # fmt: skip
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)')
    add('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..hardware.device import resolve_device, set_threads
    from ..synth.label_maps import find_label_maps, is_named
    from ..training.calibration import calibrate_model

    if args.out.suffix != '.safetensors':
        raise ValueError(f'{args.out}: give a name that ends in .safetensors')
    paths = find_label_maps(args.label_maps)
    fit, check = (
        [p for p in paths if is_named(p, names)] for names in (args.fit_on, args.check_on)
    )
    set_threads(args.threads)
    calibrate_model(
        args.model, fit, check, args.out, args.scans, resolve_device(args.device),
        args.intensity_weight,
    )  # fmt: skip
    return 0
