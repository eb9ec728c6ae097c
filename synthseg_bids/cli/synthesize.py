"""``synthseg synthesize``: write synthetic scans and their label maps."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

#: Repeated here, so that ``--help`` does not import PyTorch; a test compares both.
PRESET_NAMES = ('midl2020', 'synthseg2023', 'synthseg-bids')


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'synthesize', help='write synthetic scans and their label maps', description=__doc__
    )
    parser.add_argument('label_maps', type=Path, help='label map, folder, or BIDS derivatives')
    parser.add_argument('out', type=Path, help='output folder')
    parser.add_argument('-n', '--count', type=int, default=1, help='number of scans (default: 1)')
    parser.add_argument(
        '--preset',
        choices=PRESET_NAMES,
        default='synthseg2023',
        help='settings of the generator (default: %(default)s)',
    )
    parser.add_argument(
        '--priors',
        type=Path,
        metavar='FILE',
        help='draw intensities from hyperpriors written by "synthseg estimate-priors"',
    )
    parser.add_argument(
        '--contrast', help='contrast of --priors, such as T1w (default: a random one per scan)'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of all random numbers (default: %(default)s)'
    )
    parser.add_argument(
        '--size',
        type=int,
        default=160,
        help='side of the crop in voxels; 0: whole map (default: %(default)s)',
    )
    parser.add_argument(
        '--steps',
        action='store_true',
        help='draw each scan step by step: deformed labels, Gaussians, blur, bias field, final',
    )
    parser.add_argument(
        '--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..hardware.device import resolve_device
    from ..synth.label_maps import find_label_maps, synthesize_files
    from ..synth.presets import PRESETS
    from ..training.priors import read_priors

    if args.contrast and not args.priors:
        raise UsageError('--contrast: only with --priors, whose contrasts it chooses from')
    config = replace(PRESETS[args.preset], size=(args.size,) * 3 if args.size else None)
    if args.priors:
        priors = read_priors(args.priors, [args.contrast] if args.contrast else None)
        config = replace(config, intensity=replace(config.intensity, priors=priors))
    synthesize_files(
        find_label_maps(args.label_maps),
        args.out,
        args.count,
        config,
        seed=args.seed,
        device=str(resolve_device(args.device)),
        on_scan=_draw if args.steps else None,
    )
    return 0


def _draw(scan: Path, steps: Mapping[str, np.ndarray]) -> None:
    from ..reports.figures import generation_steps

    generation_steps(steps, scan.with_name(scan.name.replace('_image.nii.gz', '_steps.png')))
