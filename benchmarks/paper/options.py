"""Options of ``python -m paper``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path('../shared/data')
#: The systems that the paper compares, and the shipped network, with their names.
SYSTEMS = {
    'synthseg': 'SynthSeg',
    'shipped': 'SynthSeg, shipped',
    'rule': 'SynthSeg-rule',
    'supervised': 'Supervised',
    'samseg': 'SAMSEG',
}
#: Systems that are trained here.
TRAINED = ('synthseg', 'rule', 'supervised')
STAGES = ('all', 'run', 'tables', 'figures', 'page')
#: Options of ``synthseg train``, the same for all networks.
SIZES = {
    'smoke': '--features 4 --levels 2 --downsampling 2 --size 32 32 32 --steps 2 --epoch-steps 2',
    # Muon reaches in hundreds of steps what Adam needs thousands for.
    'small': '--downsampling 2 --features 16 --decoder-convs 1 --skip add --optimizer muon '
    '--learning-rate 4e-3 --decay-fraction 1 --steps 800 --epoch-steps 100',
    # The length and the rate are those of the authors' code of 2020.
    'paper': '--norm batch --norm-placement level --learning-rate 1e-4 --wl2-steps 5000 '
    '--steps 155000 --epoch-steps 1000',
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m paper',
        description='Repeat the experiments of the MIDL 2020 paper on open data.',
    )
    add = parser.add_argument
    add('stage', nargs='?', choices=STAGES, default='all',
        help='run: train and segment; tables: from what was run; figures and page: from the '
        'tables alone (default: all of them, what was done before is not repeated)')  # fmt: skip
    add('--bids', type=Path, default=DATA / 'bids', help='BIDS data set')
    add('--references', type=Path, default=DATA / 'bids/derivatives/reference', help='of it')
    add('--label-maps', type=Path, default=DATA / 'label_maps', help='to train on')
    add('--held-out', nargs='*', default=[f'sub-{i}' for i in range(13, 17)], metavar='NAME',
        help='label maps for the learning curves, not trained on')  # fmt: skip
    add('--systems', nargs='+', choices=SYSTEMS, metavar='SYSTEM',
        help=f'of {", ".join(SYSTEMS)} (default: all; samseg not at --size smoke)')  # fmt: skip
    add('--train-on', nargs='+', type=_group, metavar='NAME,NAME',
        help='groups of participants: a network is trained on the scans of each, and tested on '
        'those of the others (default: two halves)')  # fmt: skip
    add('--size', choices=SIZES, default='small', help='of the networks and their training')
    add('--steps', type=int, help='length of each training (default: as --size says)')
    add('--preset', default='midl2020', help='of the generator (default: the one of the paper)')
    add('--samseg-tree', type=Path, metavar='DIR',
        help='results of an earlier "synthseg-bids --method samseg", to use')  # fmt: skip
    add('--hide', nargs='*', default=['chris'], metavar='NAME',
        help='participants not to show in figure 5, such as for their licence')  # fmt: skip
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    add('--threads', type=int, default=2, help='CPU threads')
    add('--work', type=Path, default=REPOSITORY / 'work' / 'paper', help='trainings and results')
    add('--docs', type=Path, default=REPOSITORY / 'docs', help='where tables and page go')
    args = parser.parse_args(argv)
    if args.systems is None:
        args.systems = [name for name in SYSTEMS if args.size != 'smoke' or name != 'samseg']
    return args


def _group(text: str) -> tuple[str, ...]:
    return tuple(name.removeprefix('sub-') for name in text.split(','))
