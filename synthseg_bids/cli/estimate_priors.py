"""``synthseg estimate-priors``: estimate hyperpriors of intensities from scans with references.

Writes, for each contrast, Gaussian hyperpriors of every class's mean and standard deviation for
``synthseg train --priors``, with the number of scans and voxels of each estimate and the source of
classes that could not be estimated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from ..files import write_json
from .evaluate import named_path


def add_pair_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add the options that choose scans with references.

    Parameters
    ----------
    parser : ArgumentParser
    required : bool
        Whether references must be given.
    """
    parser.add_argument(
        '--reference',
        type=named_path,
        action='append',
        required=required,
        metavar='NAME=PATH',
        help='dataset of FreeSurfer or SAMSEG label maps; the first with one of a scan is used',
    )
    parser.add_argument(
        '--participant-label',
        nargs='+',
        metavar='LABEL',
        help='participants to use, with or without sub- (default: all); end the list with another '
        'option or with --',
    )
    parser.add_argument(
        '--contrast', nargs='+', metavar='SUFFIX', help='contrasts, such as T1w (default: all)'
    )


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'estimate-priors',
        help='estimate hyperpriors of intensities from scans with references',
        description=__doc__,
    )
    parser.add_argument('bids_dir', type=Path, metavar='BIDS_DIR', help='dataset of scans')
    parser.add_argument('out', type=Path, metavar='OUT', help='JSON file to write')
    add_pair_options(parser, required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from ..training.priors import estimate_priors
    from ..training.real_scans import find_pairs, load_pairs

    if args.out.suffix != '.json' or args.out.is_dir():
        raise UsageError(f'{args.out}: give the name of a file that ends in .json')
    references = dict(args.reference)
    pairs = find_pairs(args.bids_dir, references, args.participant_label, args.contrast)
    priors = estimate_priors(load_pairs(pairs))
    write_json(args.out, priors)
    for contrast, content in priors['contrasts'].items():
        sources = [row['source'].split()[0] for row in content['classes']]
        counts = ', '.join(f'{sources.count(s)} {s}' for s in dict.fromkeys(sources))
        print(f'{contrast}: {len(content["scans"])} scans; classes: {counts}')
    return 0
