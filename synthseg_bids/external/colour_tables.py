"""Names and colours of the labels for FreeSurfer (freeview), ITK-SNAP and 3D Slicer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..files import write_text
from ..labels import Label, segmentation_labels
from ..parcels import aparcaseg_labels

_FREESURFER = '#No. Label Name:                            R   G   B   A\n'
# Other viewers recognise the format by the second line.
_ITK_SNAP = f"""{'#' * 48}
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
{'#' * 48}
"""


def _rgb(label: Label) -> tuple[int, int, int]:
    return label.rgb if label.index else (0, 0, 0)


def _freesurfer(labels: Iterable[Label]) -> str:
    # FreeSurfer's last column is transparency, that of the others opacity.
    rows = ('{:<4} {:<38} {:>3} {:>3} {:>3} 0\n'.format(x.index, x.name, *_rgb(x)) for x in labels)
    return _FREESURFER + ''.join(rows)


def _itk_snap(labels: Iterable[Label]) -> str:
    rows = []
    for label in labels:
        shown = int(label.index != 0)
        name = label.name if shown else 'Clear Label'
        red, green, blue = _rgb(label)
        rows.append(
            f'{label.index:>5} {red:>5} {green:>4} {blue:>4} {shown:>8} {shown:>2} {shown:>2}'
            f'    "{name}"\n'
        )
    return _ITK_SNAP + ''.join(rows)


def _slicer(labels: Iterable[Label]) -> str:
    rows = [
        '{} {} {} {} {} {}\n'.format(x.index, x.name, *_rgb(x), 255 if x.index else 0)
        for x in labels
    ]
    return f'# Color table file synthseg\n# {len(rows)} values\n' + ''.join(rows)


#: What writes a table, by the end of its name; ``.txt`` is FreeSurfer's own (FreeSurferColorLUT).
FORMATS: dict[str, Callable[[Iterable[Label]], str]] = {
    '.ctab': _freesurfer,
    '.txt': _freesurfer,
    '.label': _itk_snap,
    '.ctbl': _slicer,
}


def write_colour_table(path: Path, lesions: bool = False, parcels: bool = False) -> None:
    """Write names and colours of the segmentation labels for a viewer.

    Parameters
    ----------
    path : Path
        Its end chooses the format: ``.ctab`` or ``.txt`` FreeSurfer, ``.label`` ITK-SNAP,
        ``.ctbl`` 3D Slicer.
    lesions : bool
        See :func:`.labels.segmentation_labels`.
    parcels : bool
        Whether there are parcels in the place of the cortex.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    OSError
    """
    if path.suffix not in FORMATS:
        raise ValueError(
            f'{path}: give a name that ends in .ctab or .txt (FreeSurfer), .label (ITK-SNAP) or '
            '.ctbl (3D Slicer)'
        )
    labels = aparcaseg_labels(lesions) if parcels else segmentation_labels(lesions)
    write_text(path, FORMATS[path.suffix](labels))
