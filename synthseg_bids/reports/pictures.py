"""The picture of a segmentation: a scan and its labels, one over the other."""

from __future__ import annotations

from pathlib import Path

from synthseg_bids.bids.save import figure_files

from .html import Html, data_uri, el, embedded_json
from .mosaic import SLICES, label_palette
from .structures import plain_name, structures
from .tree import Image

_MODES = {
    'contours': 'Contours',
    'fill': 'Filled',
    'plain': 'Scan only',
    'side': 'Side by side',
}


def picture_block(out_dir: Path, image: Image) -> Html:
    """Show the scan with its labels on top; a script draws contours from them."""
    paths = {kind: out_dir / name for kind, name in figure_files(image.stem).items()}
    if not all(path.is_file() for path in paths.values()):
        return el('p', 'There is no picture of this image.', class_='note')
    said = '{} {}: {} sagittal, {} coronal and {} axial slices'.format(
        image.participant, image.title, *SLICES
    )
    labels = 'Labels of the same slices'
    pane = el(
        'div',
        el('img', class_='scan', src=data_uri(paths['scan']), alt=said),
        el('img', class_='labels over', src=data_uri(paths['dseg']), alt=labels),
        class_='pane',
    )
    caption = 'Left is on the left. x, y and z: millimetres to the right, to the front and up.'
    return el(
        'figure',
        el('div', _tools(), class_='tools', role='group', aria_label='Picture'),
        el('div', pane, class_='panes'),
        el('div', _legend(), class_='legend', role='group', aria_label='Show one structure'),
        el('figcaption', el('output', 'Point at a structure to name it'), el('span', caption)),
        class_='viewer',
    )


def _tools() -> list[Html]:
    modes = [
        el('button', text, type='button', data_mode=mode, aria_pressed=str(i == 0).lower())
        for i, (mode, text) in enumerate(_MODES.items())
    ]
    key = el('kbd', 'f', class_='keys')
    return [
        *modes,
        el('button', 'Flicker ', key, type='button', class_='flicker'),
        el('button', 'Full screen', type='button', class_='full'),
        el('label', 'Labels ', el('input', type='range', min=10, max=100, value=100)),
    ]


def _legend() -> list[Html]:
    """Make a button for every structure, which shows it alone."""
    return [
        el(
            'button',
            el('span', class_='swatch', style=f'background:{structure.color}'),
            structure.title,
            type='button',
            aria_pressed='false',
            data_colors=' '.join(str(_number(label.index)) for label in structure.labels),
        )
        for structure in structures()
    ]


def names_by_color() -> Html:
    """Embed the name of each structure by the colour of its pixels, for pointing at them."""
    sides = {'left': 'left ', 'right': 'right ', 'none': ''}
    names = {
        _number(label.index): f'{sides[label.side]}{plain_name(label.name).lower()}'
        for structure in structures()
        for label in structure.labels
    }
    return embedded_json('label-names', names)


def _number(index: int) -> int:
    """Return a label's colour as one number: red, green and blue byte."""
    return int(label_palette()[index][1:], 16)
