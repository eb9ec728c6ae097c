"""``synthseg import-weights``: convert published SynthSeg weights for use with ``--model``.

Writes OUT and a model card beside it. Weights that FreeSurfer or DIPY have installed need no
import: ``--model synthseg_2.0`` finds them.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'import-weights', help='convert published SynthSeg weights', description=__doc__
    )
    parser.add_argument(
        'file',
        type=Path,
        metavar='FILE',
        help="synthseg_1.0.h5, synthseg_2.0.h5, or DIPY's synthseg_model_weights.pth",
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='.safetensors file')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..models.published import convert

    if args.out.suffix != '.safetensors':
        raise ValueError(f'{args.out}: give a name that ends in .safetensors')
    if args.out.is_dir():
        raise ValueError(f'{args.out}: is a folder; give the name of a file')
    card = convert(args.file, args.out)
    logger.info('%s: %s from %s', args.out, card.training['release'], args.file)
    return 0
