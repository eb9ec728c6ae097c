"""``synthseg segment``: segment one scan of any contrast and resolution."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import about
from ..files import write_json

if TYPE_CHECKING:
    from ..inference.reference import ReferenceSegmentation
    from ..inference.result import Segmentation

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('segment', help='segment one scan', description=__doc__)
    parser.add_argument(
        'scan',
        type=Path,
        metavar='IN',
        help='.nii, .nii.gz, .mgz, .mgh, or either file of a pair .img and .hdr',
    )
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='label map on the grid of IN: .nii.gz or .nii'
    )
    parser.add_argument(
        '--volumes',
        type=Path,
        metavar='TABLE',
        help='table of volumes, a row per structure: tabs in .tsv, commas in .csv',
    )
    parser.add_argument(
        '--posteriors',
        type=Path,
        metavar='NII',
        help='4D probabilities on the grid of IN; a JSON file beside it names the volumes',
    )
    parser.add_argument(
        '--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)'
    )
    parser.add_argument(
        '--model',
        default='default',
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
        '--compat',
        action='store_true',
        help='do exactly as the reference implementation, with its published weights, in float32; '
        'outputs are on its grid of 1 mm (see docs/compat.rst)',
    )
    parser.set_defaults(run=run)


def _check_names(args: argparse.Namespace) -> None:
    """Check file names and numbers before the computation."""
    if args.scan.is_dir():
        raise ValueError(f'{args.scan}: is a folder; give an image file')
    for path in (args.out, args.posteriors):
        if path is not None and not path.name[1:].endswith(('.nii', '.nii.gz')):
            raise ValueError(f'{path}: give a name, and .nii.gz or .nii as its end')
    outputs = [path for path in (args.out, args.posteriors, args.volumes) if path is not None]
    if args.posteriors is not None:
        outputs.append(_sidecar(args.posteriors))
    scan = {args.scan.resolve(), _sidecar(args.scan).resolve()}
    for path in outputs:
        if path.resolve() in scan:
            raise ValueError(f'{path}: would overwrite the scan; give another name')
        if path.is_dir():
            raise ValueError(f'{path}: is a folder; give the name of a file')
    if args.volumes is not None and args.volumes.suffix not in ('.tsv', '.csv'):
        raise ValueError(f'{args.volumes}: give a name that ends in .tsv (tabs) or .csv (commas)')
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ValueError(f'{args.out}: several outputs share one name; give each its own')
    if args.threads is not None and args.threads < 1:
        raise ValueError(f'--threads {args.threads}: give at least 1')


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.removesuffix('.gz').removesuffix('.nii') + '.json')


def _describe(labels: tuple[int, ...]) -> dict[str, object]:
    from ..bids.metadata import describe_posteriors
    from ..labels import segmentation_labels

    names = {label.index: label.name for label in segmentation_labels()}
    return {**describe_posteriors([names[label] for label in labels]), 'Index': list(labels)}


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    _check_names(args)

    from ..images.volume_io import read_volume, write_image, write_label_map, write_posteriors

    # Before importing PyTorch, so that errors are immediate.
    scan = read_volume(args.scan)

    from ..bids.tables import write_morph_table
    from ..inference.segmenter import Segmenter
    from ..measure.overlap import total_intracranial, volumes_from_labels

    flip = not args.fast
    found: Segmentation | ReferenceSegmentation
    for path in (args.out, args.posteriors, args.volumes):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if args.compat:
        from ..inference.reference import reference_segmenter, segment_as_reference

        segmenter = reference_segmenter(args.model, args.device, args.threads)
        with about(args.scan):
            found = segment_as_reference(segmenter, scan.data, scan.affine, flip, bool(args.ct))
        affine, like = found.affine, None
        write_image(args.out, found.labels, affine)
    else:
        wanted = args.posteriors is not None
        segmenter = Segmenter(args.model, args.device, flip, args.threads)
        with about(args.scan):
            found = segmenter.segment(scan.data, scan.affine, posteriors=wanted, ct=args.ct)
        affine, like = scan.affine, scan
        write_label_map(args.out, found.labels, scan)
    if args.volumes is not None:
        volumes = volumes_from_labels(found.labels, affine)
        soft = found.volumes_mm3.tolist()
        write_morph_table(args.volumes, volumes, total_intracranial(volumes), soft)
    if args.posteriors is not None and found.posteriors is not None:
        write_posteriors(args.posteriors, found.posteriors, affine, like)
        write_json(_sidecar(args.posteriors), _describe(segmenter.card.labels))
    logger.info('%s: segmented in %.1f s on %s', args.out, found.seconds, found.device)
    return 0
