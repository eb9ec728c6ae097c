"""``synthseg synthesize``: write synthetic scans and their label maps."""

from __future__ import annotations

import argparse
from pathlib import Path

#: Kept here too so that ``--help`` need not import torch; a test compares the two.
PRESET_NAMES = ('midl2020', 'synthseg2023', 'synthseg-bids')


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'synthesize', help='write synthetic scans and their label maps', description=__doc__
    )
    parser.add_argument('label_maps', type=Path, help='label map, folder, or BIDS derivatives')
    parser.add_argument('out', type=Path, help='output folder')
    parser.add_argument('-n', '--count', type=int, default=1, help='number of scans (default 1)')
    parser.add_argument('--preset', choices=PRESET_NAMES, default='synthseg2023')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--size', type=int, default=160, help='side of the crop in voxels; 0: whole map'
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..device import resolve_device
    from ..synth.files import find_label_maps, synthesize_files

    synthesize_files(
        find_label_maps(args.label_maps),
        args.out,
        args.count,
        preset=args.preset,
        seed=args.seed,
        size=args.size or None,
        device=str(resolve_device(args.device)),
    )
    return 0
