"""Slices of a scan and of its label map in three planes, laid out side by side.

Slices are drawn in millimetres, so that thick ones look thick, with the patient's left on the
left, the front of the head on the right of sagittal slices, and the position of each slice along
its axis in mm.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthseg_bids.images.geometry import (
    Grid,
    bounding_box,
    orientation,
    resampling_matrix,
    spacing_mm,
    to_ras,
)
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.parcels import parcel_labels

#: Slices in the sagittal, coronal and axial row.
SLICES = (5, 6, 6)
#: Margin around the brain, and least size of the view, in mm.
MARGIN_MM, SMALLEST_VIEW_MM = 12.0, 110.0
#: Size of a pixel in mm; it is larger if the view had more than this number of pixels.
PIXEL_MM, LARGEST_VIEW_PX = 1.0, 230
#: Greys are multiples of this: steps too small to see, in a file that is half as large.
GREY_STEP = 6

_BRIGHTEST = 255 // GREY_STEP
_GAP = 6
_TEXT_GREY = 33 * GREY_STEP


@lru_cache(maxsize=1)
def label_palette() -> dict[int, str]:
    """Return a colour for every segmentation label and parcel, no two of them the same.

    The two sides of a structure share a colour in FreeSurfer's table; here they differ by a
    shade that no eye tells apart but a program does.

    Returns
    -------
    dict of int to str
        ``#rrggbb`` by label, background first.
    """
    palette: dict[int, str] = {}
    for label in (*segmentation_labels(lesions=True), *parcel_labels()):
        value = int(label.color[1:], 16)
        while f'#{value:06x}' in palette.values():
            value ^= 1 if value & 1 == 0 else 3
        palette[label.index] = f'#{value:06x}'
    return palette


def draw_mosaic(
    scan: np.ndarray, labels: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out slices of a scan, and the same slices of its label map.

    Parameters
    ----------
    scan : (i, j, k) array
    labels : (i, j, k) integer array
        Segmentation labels on the same grid, or those with parcels in the place of the cortex.
    affine : (4, 4) array

    Returns
    -------
    scan_pixels : (height, width) uint8 array
        Greyscale, with the annotations.
    label_pixels : (height, width) uint8 array
        Positions in :func:`label_palette`.
    """
    palette = label_palette()
    orient = orientation(affine)
    to_world = Grid(scan.shape, affine).in_ras().affine
    scan, labels = to_ras(scan, orient), to_ras(labels, orient)
    spacing = spacing_mm(to_world)
    brain = bounding_box(labels > 0) or tuple(slice(0, n) for n in scan.shape)
    view = _view(brain, scan.shape, spacing)
    low, high = _window(scan[view], labels[view])
    sides_mm = np.array([part.stop - part.start for part in view]) * spacing
    pixel = max(PIXEL_MM, sides_mm.max() / LARGEST_VIEW_PX)
    indices = np.zeros(int(max(labels.max(), *palette)) + 1, dtype=np.uint8)
    indices[list(palette)] = np.arange(len(palette))

    rows = []
    for axis in range(3):
        tiles = []
        for k in _positions(brain[axis], SLICES[axis]):
            where = tuple(k if i == axis else part for i, part in enumerate(view))
            centre = [(part.start + part.stop - 1) / 2 for part in view]
            centre[axis] = k
            position = float(to_world[axis] @ [*centre, 1])
            in_plane = [spacing[i] for i in range(3) if i != axis]
            grey = (_resample(scan[where], in_plane, pixel) - low) / (high - low)
            tile = GREY_STEP * np.clip(grey * _BRIGHTEST + 0.5, 0, _BRIGHTEST).astype(np.uint8)
            _annotate(tile, axis, position)
            tiles.append((tile, indices[_nearest(labels[where], in_plane, pixel)]))
        rows.append(tiles)
    scans, overlays = ([[tile[layer] for tile in row] for row in rows] for layer in (0, 1))
    return _lay_out(scans), _lay_out(overlays)


def _view(
    brain: tuple[slice, ...], shape: tuple[int, ...], spacing: np.ndarray
) -> tuple[slice, ...]:
    """Return the brain with a margin; a segmentation that went wrong may be tiny or nothing."""
    view = []
    for part, n, step in zip(brain, shape, spacing, strict=True):
        lacking = (SMALLEST_VIEW_MM / step - (part.stop - part.start)) / 2
        margin = int(np.ceil(max(MARGIN_MM / step, lacking)))
        view.append(slice(max(part.start - margin, 0), min(part.stop + margin, n)))
    return tuple(view)


def _window(scan: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Choose the intensities to draw black and white: the range of the brain, without outliers."""
    inside = scan[labels > 0]
    high = np.percentile(inside if inside.size else scan, 99.7)
    low = min(np.percentile(scan, 2), high)
    return float(low), float(high if high > low else low + 1)


def _positions(part: slice, n: int) -> np.ndarray:
    """Spread n slices over the brain, leaving out its very ends."""
    return np.rint(part.start + np.linspace(0.14, 0.86, n) * (part.stop - 1 - part.start)).astype(
        int
    )


def _sizes(shape: tuple[int, ...], spacing: list[float], pixel: float) -> list[tuple[int, float]]:
    """Return the number of pixels along each axis and how many voxels one takes."""
    return [
        (max(round(n * step / pixel), 1), pixel / step)
        for n, step in zip(shape, spacing, strict=True)
    ]


def _upright(plane: np.ndarray) -> np.ndarray:
    """Turn (across, up) into rows from the top."""
    return plane.T[::-1]


def _resample(plane: np.ndarray, spacing: list[float], pixel: float) -> np.ndarray:
    across, up = (
        resampling_matrix(n, size, step)
        for n, (size, step) in zip(plane.shape, _sizes(plane.shape, spacing, pixel), strict=True)
    )
    return _upright(across @ plane.astype(np.float32) @ up.T)


def _nearest(plane: np.ndarray, spacing: list[float], pixel: float) -> np.ndarray:
    where = []
    for n, (size, step) in zip(plane.shape, _sizes(plane.shape, spacing, pixel), strict=True):
        centres = (n - 1) / 2 + (np.arange(size) - (size - 1) / 2) * step
        where.append(np.clip(np.rint(centres), 0, n - 1).astype(int))
    return _upright(plane[np.ix_(*where)])


def _annotate(tile: np.ndarray, axis: int, position_mm: float) -> None:
    """Write the slice's position and the directions into a tile."""
    height, width = tile.shape
    left, right = ('P', 'A') if axis == 0 else ('L', 'R')
    _write_text(tile, f'{"xyz"[axis]}{round(position_mm)}', height - 7, 3)
    _write_text(tile, left, height // 2, 3)
    _write_text(tile, right, height // 2, width - 8)


def _write_text(tile: np.ndarray, text: str, middle: int, start: int) -> None:
    """Write on a black box, ``middle`` pixels from the top."""
    font = ImageFont.load_default_imagefont()
    *_, width, height = font.getbbox(text)
    top, left = middle - height // 2, start - 1
    # A tile that is too small for its text has none.
    if top < 0 or left < 0 or top + height > tile.shape[0] or left + width > tile.shape[1]:
        return
    box = Image.new('L', (int(width), int(height)))
    ImageDraw.Draw(box).text((0, 0), text, _TEXT_GREY, font)
    tile[top : top + box.height, left : left + box.width] = box


def _lay_out(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Put rows of tiles below each other, each spread over the full width."""
    width = max(sum(tile.shape[1] + _GAP for tile in row) for row in rows) - _GAP
    height = sum(row[0].shape[0] + _GAP for row in rows) - _GAP
    canvas = np.zeros((height, width), dtype=np.uint8)
    top = 0
    for row in rows:
        for left, tile in _spread(row, width):
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += row[0].shape[0] + _GAP
    return canvas


def _spread(row: list[np.ndarray], width: int) -> Iterator[tuple[int, np.ndarray]]:
    cell = width / len(row)
    for place, tile in enumerate(row):
        yield int((place + 0.5) * cell - tile.shape[1] / 2), tile
