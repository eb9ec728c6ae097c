"""``synthseg segment``: segment one scan, or those of a folder or list, of any contrast."""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..files import sidecar
from ..hardware.processes import importing
from ..inference.options import LESIONS
from ..models import DEFAULT_MODEL

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('segment', help='segment scans', description=__doc__)
    parser.add_argument(
        'scan',
        type=Path,
        metavar='IN',
        help='.nii, .nii.gz, .mgz, .mgh, or either file of a pair .img and .hdr; or a folder of '
        'them, or a .txt file with a path per line',
    )
    parser.add_argument(
        'out',
        type=Path,
        metavar='OUT',
        help='label map on the grid of IN: .nii.gz or .nii; for a folder or list the folder of '
        'the label maps <name>_synthseg.nii.gz, or a .txt file with a path for each',
    )
    parser.add_argument(
        '--recursive',
        action='store_true',
        help='include subfolders of IN; OUT gets the same subfolders',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='for a folder or list: also segment scans with complete outputs of the same model '
        'and options (default: skip them); the output of a single scan is always overwritten',
    )
    parser.set_defaults(run=run)
    _add_more_outputs(parser)
    _add_method(parser)


def _add_more_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--volumes',
        type=Path,
        metavar='TABLE',
        help='table of volumes, with a row per structure or, for a folder or list, per scan: tabs '
        'in .tsv, commas in .csv',
    )
    parser.add_argument(
        '--posteriors',
        type=Path,
        metavar='NII',
        help='4D probabilities on the grid of IN, with a JSON file that names the volumes; for a '
        'folder or list the folder of <name>_posteriors.nii.gz',
    )
    parser.add_argument(
        '--parc',
        action='store_true',
        help='parcels in the place of the cortex in OUT, 34 on each side (Desikan-Killiany), '
        'numbered as in the aparc+aseg of FreeSurfer, and their volumes in TABLE',
    )
    parser.add_argument(
        '--lut',
        type=Path,
        metavar='FILE',
        help='names and colours of the labels: .ctab or .txt for freeview, .label for ITK-SNAP, '
        '.ctbl for 3D Slicer',
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)'
    )
    parser.add_argument(
        '--model',
        default=DEFAULT_MODEL,
        help='name of a shipped model or of installed published weights such as synthseg_2.0, or '
        'a weights file (default: the best shipped model)',
    )
    parser.add_argument(
        '--threads', type=int, metavar='N', help="CPU threads (default: PyTorch's choice)"
    )
    parser.add_argument(
        '--fast',
        action='store_true',
        help='do not average with the mirrored scan: one pass of the network instead of two',
    )
    parser.add_argument(
        '--ct',
        action=argparse.BooleanOptionalAction,
        help='whether the scan is CT, to be clipped to 0 to 80 Hounsfield units (default: '
        'detected by its intensities)',
    )
    parser.add_argument(
        '--lesions',
        choices=LESIONS,
        default=LESIONS[0],
        help='label: white-matter lesions are a label (77), if the network has it; fold: part of '
        'the tissue they lie in (default: %(default)s)',
    )
    parser.add_argument(
        '--compat',
        action='store_true',
        help='do exactly as the reference implementation, with its published weights, in float32; '
        'outputs are on its grid of 1 mm (see docs/compat.rst)',
    )


def _check_names(args: argparse.Namespace, several: bool) -> None:
    """Check file names and numbers before the computation."""
    if not several:
        _check_single(args)
    for path in (args.volumes, args.lut):
        if path is not None and path.is_dir():
            raise ValueError(f'{path}: is a folder; give the name of a file')
    image = args.out.name.endswith(('.nii', '.nii.gz'))
    if several and (image or args.out.is_file() != (args.out.suffix == '.txt')):
        raise ValueError(
            f'{args.out}: give a folder for the label maps, or a .txt file with a path for each'
        )
    if args.lut is not None and args.lut.resolve() in (args.scan.resolve(), args.out.resolve()):
        raise ValueError(f'{args.lut}: would overwrite a list of paths; give another name')
    if args.volumes is not None and args.volumes.suffix not in ('.tsv', '.csv'):
        raise ValueError(f'{args.volumes}: give a name that ends in .tsv (tabs) or .csv (commas)')
    if args.parc and args.compat:
        raise ValueError('--parc: not with --compat; leave one of them out')
    if args.threads is not None and args.threads < 1:
        raise ValueError(f'--threads {args.threads}: give at least 1')


def _check_single(args: argparse.Namespace) -> None:
    from ..images.checks import check_output

    if args.recursive:
        raise ValueError(f'{args.scan}: is no folder; leave out --recursive')
    for path in (args.out, args.posteriors):
        if path is not None:
            check_output(path)
    given = (args.out, args.posteriors, args.volumes, args.lut)
    outputs = [path for path in given if path is not None]
    if args.posteriors is not None:
        outputs.append(sidecar(args.posteriors))
    scan = {args.scan.resolve(), sidecar(args.scan).resolve()}
    for path in outputs:
        if path.resolve() in scan:
            raise ValueError(f'{path}: would overwrite the scan; give another name')
        if path.is_dir():
            raise ValueError(f'{path}: is a folder; give the name of a file')
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ValueError(f'{args.out}: several outputs share one name; give each its own')


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; return 1 if one of several scans could not be segmented."""
    several = args.scan.is_dir() or args.scan.suffix == '.txt'
    _check_names(args, several)
    if args.lut is not None:
        from ..external.colour_tables import write_colour_table

        write_colour_table(args.lut, lesions=True, parcels=args.parc)
    if not several:
        return _run_single(args)
    with importing():
        from . import segment_folder

    return segment_folder.run(args)


def _run_single(args: argparse.Namespace) -> int:
    from ..images.volume_io import check_header, read_volume

    # Before importing PyTorch, so that errors are immediate.
    check_header(args.scan)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_volume, args.scan)
        with importing():
            from ..bids.tables import write_morph_table
            from .segment_scan import load, measure, segment, write_maps

        segmenter = load(args)
        scan = reading.result()
    found = segment(segmenter, scan, args)
    write_maps(found, scan, args.out, args.posteriors, segmenter.labels)
    if args.volumes is not None:
        write_morph_table(args.volumes, measure(found, scan))
    logger.info('%s: segmented in %.1f s on %s', args.out, found.seconds, found.device)
    return 0
