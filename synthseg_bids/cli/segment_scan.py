"""Segment one scan and write its maps, by the options of ``synthseg segment``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeAlias

from ..bids.metadata import describe_posteriors
from ..bids.tables import measure_rows
from ..errors import about
from ..files import sidecar, write_json
from ..images.volume_io import Volume, write_image, write_label_map, write_posteriors
from ..inference.reference import ReferenceSegmentation, reference_segmenter, segment_as_reference
from ..inference.result import Segmentation
from ..inference.segmenter import Segmenter
from ..labels import segmentation_labels

Found: TypeAlias = Segmentation | ReferenceSegmentation


def load(args: argparse.Namespace) -> Segmenter:
    """Load the network; raises ModelFileError or DeviceError."""
    if args.compat:
        return reference_segmenter(args.model, args.device, args.threads)
    options = {'lesions': args.lesions, 'parcels': args.parc}
    return Segmenter(args.model, args.device, not args.fast, args.threads, **options)


def segment(segmenter: Segmenter, scan: Volume, args: argparse.Namespace) -> Found:
    """Segment a scan; raises InputImageError if nearly all voxels are equal."""
    with about(scan.path):
        if args.compat:
            ct = bool(args.ct)
            return segment_as_reference(segmenter, scan.data, scan.affine, not args.fast, ct)
        wanted = args.posteriors is not None
        return segmenter.segment(scan.data, scan.affine, posteriors=wanted, ct=args.ct)


def write_maps(
    found: Found, scan: Volume, labels: Path, posteriors: Path | None, channels: tuple[int, ...]
) -> None:
    """Write the label map and, if asked for, the posteriors with a JSON file of their names.

    Where parcels were asked for, they are in the place of the cortex.

    Parameters
    ----------
    found : Segmentation or ReferenceSegmentation
    scan : Volume
        Scan with the grid of the maps, except those of the reference implementation.
    labels : Path
    posteriors : Path or None
    channels : tuple of int
        Segmentation label of each channel.
    """
    for path in (labels, posteriors):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    on_scan = None if isinstance(found, ReferenceSegmentation) else scan
    if posteriors is not None and found.posteriors is not None:
        write_posteriors(posteriors, found.posteriors, affine_of(found, scan), on_scan)
        write_json(sidecar(posteriors), _describe(channels))
    if isinstance(found, ReferenceSegmentation):
        write_image(labels, found.labels, affine_of(found, scan))
    else:
        write_label_map(labels, found.labels if found.parcels is None else found.parcels, scan)


def measure(found: Found, scan: Volume) -> list[dict[str, Any]]:
    """List the volumes of all structures; see :func:`~synthseg_bids.bids.tables.morph_rows`."""
    parcels = found.parcels if isinstance(found, Segmentation) else None
    affine = affine_of(found, scan)
    return measure_rows(found.labels, affine, found.volumes_mm3.tolist(), parcels)


def affine_of(found: Found, scan: Volume) -> Any:
    """Return the affine of a segmentation."""
    return found.affine if isinstance(found, ReferenceSegmentation) else scan.affine


def _describe(labels: tuple[int, ...]) -> dict[str, object]:
    names = {label.index: label.name for label in segmentation_labels(lesions=True)}
    return {**describe_posteriors([names[label] for label in labels]), 'Index': list(labels)}
