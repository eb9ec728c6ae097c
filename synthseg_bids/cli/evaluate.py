"""``synthseg evaluate``: compare existing segmentations with references.

Segmentations are those of a data set of derivatives (its ``*_dseg.nii.gz``, matched with
references by subject, session, acquisition and run, as synthseg-bids does) or single label maps.
Writes to DIR: dice_scans.tsv (every scan and structure), dice_summary.tsv (means over scans with
bootstrap confidence intervals), structures.tsv (Dice, surface distances, ratio and agreement of
volumes of each structure) and, for each reference, the box plot dice_NAME.png. Where both have
parcels of the cortex, parcels.tsv has Dice, ratio, agreement and correlation of volumes of each
parcel of both schemes: without bankssts, frontalpole and temporalpole where one is DKT.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..bids.image_record import ImageRecord
from ..bids.names import DERIVATIVE_ENTITIES, has_parcels, has_tissues, parcels_seg, parse_name
from ..bids.query import DEFAULT_SUFFIXES
from ..bids.references import find_reference
from ..external.methods import OURS
from ..files import read_description, write_table

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

#: Contrast of label maps without one in their name.
UNKNOWN = 'unknown'


@dataclass(frozen=True)
class Scan:
    """One segmentation to evaluate.

    Attributes
    ----------
    path : Path
        Its label map.
    name, contrast : str
        Name and contrast of the scan that was segmented.
    references : dict of str to Path
        Label maps to compare it with.
    parcels : Path or None
        Label map with the parcels of the cortex, if that is another one.
    """

    path: Path
    name: str
    contrast: str
    references: dict[str, Path] = field(default_factory=dict)
    parcels: Path | None = None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'evaluate', help='compare segmentations with references', description=__doc__
    )
    parser.add_argument(
        'segmentations',
        type=Path,
        nargs='+',
        metavar='DERIVATIVES_OR_FILE',
        help='data set written by synthseg-bids, or label maps',
    )
    parser.add_argument(
        '--reference',
        type=named_path,
        action='append',
        required=True,
        metavar='NAME=PATH',
        help='data set of FreeSurfer or SAMSEG label maps, or one label map to compare every FILE '
        'with; repeatable',
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='folder of the tables and figures'
    )
    parser.set_defaults(run=run)


def named_path(text: str) -> tuple[str, Path]:
    """Parse ``NAME=PATH``.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text has another form.
    """
    name, equals, path = text.partition('=')
    if not (equals and path and re.fullmatch('[a-zA-Z0-9]+', name)):
        raise argparse.ArgumentTypeError(
            f'{text!r}: give NAME=PATH, the name of letters and digits'
        )
    return name, Path(path)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; return 1 if any comparison failed."""
    references = dict(args.reference)
    if len(references) < len(args.reference):
        raise ValueError('--reference: a name was given twice; give each its own')
    for name, path in references.items():
        if not path.exists():
            raise ValueError(f'--reference {name}={path}: does not exist; give a folder or file')
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f'{args.out}: is a file; give the name of a folder')
    scans = [scan for path in args.segmentations for scan in find_scans(path, references)]
    names = [scan.name for scan in scans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f'{", ".join(twice[:5])}: segmented more than once; evaluate one method at a time'
        )
    rows, failures = _compare_all(scans)
    if not rows:
        raise ValueError(
            f'nothing to compare: {len(scans)} segmentations, none with a usable reference; '
            'subject, session, acquisition and run must be the same'
        )
    write_results(args.out, rows)
    without = sum(not scan.references for scan in scans)
    compared = len({(row['scan'], row['reference']) for row in rows})
    print(f'{compared} compared, {without} without a reference, {failures} failed')
    return 1 if failures else 0


def find_scans(path: Path, references: Mapping[str, Path]) -> list[Scan]:
    """List the segmentations in a data set, or the one in a file, with their references.

    Parameters
    ----------
    path : Path
        Derivatives, or a label map.
    references : mapping of str to Path
        Data sets by name; also single label maps if `path` is one.

    Returns
    -------
    list of Scan

    Raises
    ------
    ValueError
        If there is none, or if references are label maps but `path` is a data set.
    """
    single = {name: target for name, target in references.items() if target.is_file()}
    folders = {name: target for name, target in references.items() if name not in single}
    if path.is_dir():
        if single:
            raise ValueError(
                f'{path}: a data set needs data sets as references, not one label map '
                f'({", ".join(map(str, single.values()))})'
            )
        maps = sorted(path.glob('sub-*/**/anat/sub-*_dseg.nii.gz'))
        others = {parcel_map(file) for file in maps}
        paths = [file for file in maps if not (has_tissues(file.name) or file in others)]
        if not paths:
            raise ValueError(
                f'{path}: no sub-*/[ses-*/]anat/*_dseg.nii.gz here; give the output folder of '
                'synthseg-bids'
            )
    else:
        paths = [path]
    scans = []
    for file in paths:
        image = source_image(file)
        found = find_reference(image, folders) if image else {}
        name = file.name if image is None else Path(image.relative).name.partition('.')[0]
        contrast = image.suffix if image else UNKNOWN
        scans.append(Scan(file, name, contrast, {**found, **single}, parcel_map(file)))
    return scans


def parcel_map(path: Path) -> Path | None:
    """Return the label map with parcels that lies beside one of ours; None if there is none."""
    if has_parcels(path.name):
        return None
    parsed = parse_name(path.name)
    seg = parsed[0].get('seg', '') if parsed else ''
    if not seg.startswith(OURS):
        return None
    other = path.with_name(path.name.replace(f'_seg-{seg}_', f'_seg-{parcels_seg(seg)}_'))
    return other if other.is_file() else None


def source_image(path: Path) -> ImageRecord | None:
    """Return the image that a label map was made from, by its sidecar or else by its name.

    Parameters
    ----------
    path : Path
        ``sub-01_seg-synthseg_desc-T1w_dseg.nii.gz`` or the like.

    Returns
    -------
    ImageRecord or None
        The file need not exist. None if the name does not follow BIDS.
    """
    try:
        sidecar = read_description(path.parent / f'{path.name.partition(".")[0]}.json')
        source = unquote(sidecar['Sources'][0].rpartition(':')[2])
    except (LookupError, TypeError, AttributeError):
        source = ''
    parsed = parse_name(source.rpartition('/')[2])
    if parsed:
        return ImageRecord(path, source, parsed[0], parsed[1])
    parsed = parse_name(path.name)
    if parsed is None:
        return None
    description = parsed[0].get('desc', UNKNOWN)
    suffix = next((s for s in DEFAULT_SUFFIXES if description.startswith(s)), description)
    entities = {k: v for k, v in parsed[0].items() if k not in DERIVATIVE_ENTITIES}
    name = '_'.join([*(f'{key}-{value}' for key, value in entities.items()), suffix])
    return ImageRecord(path, name, entities, suffix)


def _compare_all(scans: Sequence[Scan]) -> tuple[list[dict[str, Any]], int]:
    """Compare every scan with its references; one that fails is logged and counted."""
    from ..images.volume_io import InputImageError
    from ..labels import LabelSchemeError
    from ..measure.overlap import FieldOfViewError
    from ..measure.summary import scan_rows

    rows: list[dict[str, Any]] = []
    failures = 0
    for scan in scans:
        if not scan.references:
            logger.warning('%s: no reference', scan.path)
        for name, reference in scan.references.items():
            try:
                compared, parcels = _compare(scan, reference)
            except (InputImageError, LabelSchemeError, FieldOfViewError) as error:
                logger.error('%s', error)
                failures += 1
            else:
                rows += scan_rows(scan.name, scan.contrast, name, compared, parcels)
                logger.info('%s (%s): Dice %.3f', scan.name, name, compared[-1]['dice'])
    return rows, failures


def _compare(scan: Scan, reference: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the label maps of a scan with a reference: all structures, and parcels."""
    from ..images.volume_io import read_label_map
    from ..measure.overlap import compare_to_reference
    from ..measure.parcel_overlap import compare_parcels, names_of, not_in_scheme

    ours, theirs = read_label_map(scan.path), read_label_map(reference)
    labels = _as_ours(ours.data, str(scan.path))
    compared = compare_to_reference(
        labels, ours.affine, theirs.data, theirs.affine, str(reference), True
    )
    with_parcels = read_label_map(scan.parcels) if scan.parcels else ours
    parcels = compare_parcels(with_parcels.data, with_parcels.affine, theirs.data, theirs.affine)
    for path, data in ((scan.parcels or scan.path, with_parcels.data), (reference, theirs.data)):
        if parcels and (left_out := not_in_scheme(data)):
            logger.info('%s: parcels of DKT; not compared: %s', path, names_of(left_out))
    return compared, parcels


def _as_ours(labels: np.ndarray, source: str) -> np.ndarray:
    """Translate the labels of another program to ours."""
    import numpy as np

    from ..labels import fold_reference, network_labels

    ours = np.isin(np.unique(labels), network_labels(lesions=True)).all()
    return labels if ours else fold_reference(labels, source)


def write_results(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables and the figures, and print the means.

    Parameters
    ----------
    out : Path
        Folder.
    rows : sequence of mapping
        From :func:`synthseg_bids.measure.summary.scan_rows`.
    """
    from ..measure.summary import (
        PARCEL_COLUMNS,
        SCAN_COLUMNS,
        STRUCTURE_COLUMNS,
        SUMMARY_COLUMNS,
        structure_values,
        summarise,
        summarise_parcels,
        summarise_structures,
    )
    from ..reports.figures import dice_boxes

    summary = summarise(rows)
    write_table(out / 'dice_scans.tsv', SCAN_COLUMNS, rows)
    write_table(out / 'dice_summary.tsv', SUMMARY_COLUMNS, summary)
    write_table(out / 'structures.tsv', STRUCTURE_COLUMNS, summarise_structures(rows))
    if parcels := summarise_parcels(rows):
        write_table(out / 'parcels.tsv', PARCEL_COLUMNS, parcels)
    for name in sorted({row['reference'] for row in rows}):
        dice_boxes(structure_values(rows, name), out / f'dice_{name}.png', title=name)
    columns = ('reference', 'contrast', 'structure', 'n', 'mean', 'sd', 'ci_low', 'ci_high')
    print('\t'.join(columns))
    for row in summary:
        if row['kind'] == 'mean':
            print('\t'.join(_short(row[column]) for column in columns))


def _short(value: object) -> str:
    if isinstance(value, float):
        return f'{value:.3f}' if value == value else 'n/a'
    return str(value)
