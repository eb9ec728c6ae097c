"""The picture of a segmentation: a scan and its labels, one over the other."""

from __future__ import annotations

from pathlib import Path

from synthseg_bids.bids.save import figure_files

from .mosaic import SLICES, label_palette
from .page import data_uri
from .structures import Structure, parcels, sided_name, structures
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


def legends() -> dict[str, list[tuple[Structure, list[int]]]]:
    """List structures, and parcels, with the colours of their pixels; by kind of picture.

    See :func:`names_by_color`.
    """
    shown = {'dseg': structures(), 'parcels': parcels()}
    return {
        kind: [(one, [_number(label.index) for label in one.labels]) for one in some]
        for kind, some in shown.items()
    }


def names_by_color() -> dict[int, str]:
    """Name each structure by the colour of its pixels, as one number: red, green, blue byte."""
    return {
        _number(label.index): sided_name(label)
        for structure in (*structures(lesions=True), *parcels())
        for label in structure.labels
    }


def _number(index: int) -> int:
    return int(label_palette()[index][1:], 16)
