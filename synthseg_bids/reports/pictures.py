"""The picture of a segmentation: a scan and its labels, one over the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from synthseg_bids.bids.save import figure_files
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.parcels import parcel_labels

from .mosaic import SLICES, label_palette
from .page import data_uri
from .structures import Structure, sided_name
from .tree import Image


def read_picture(out_dir: Path, image: Image) -> dict[str, str]:
    """Read the scan and the labels that a script draws on top of it; empty without them.

    Parcels are there only if they were asked for.
    """
    named = {kind: out_dir / name for kind, name in figure_files(image.stem).items()}
    paths = {kind: path for kind, path in named.items() if path.is_file()}
    if not {'scan', 'dseg'} <= paths.keys():
        return {}
    slices = '{} sagittal, {} coronal and {} axial slices'.format(*SLICES)
    return {'slices': slices, **{kind: data_uri(path) for kind, path in paths.items()}}


def legend(shown: Iterable[Structure]) -> list[tuple[Structure, list[int]]]:
    """List structures with the colours of their pixels; see :func:`names_by_color`."""
    return [
        (structure, [_number(label.index) for label in structure.labels]) for structure in shown
    ]


def names_by_color() -> dict[int, str]:
    """Name each label by the colour of its pixels, as one number: red, green, blue byte."""
    labels = (*segmentation_labels(lesions=True), *parcel_labels())
    return {_number(label.index): sided_name(label) for label in labels if label.index}


def _number(index: int) -> int:
    return int(label_palette()[index][1:], 16)
