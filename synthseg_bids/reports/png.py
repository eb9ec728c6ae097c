"""PNG files from arrays, without a drawing library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_GREY, _INDEXED = 0, 3


def write_grey(path: Path, pixels: np.ndarray) -> None:
    """Write a greyscale picture.

    Parameters
    ----------
    path : Path
    pixels : (height, width) uint8 array
    """
    # Residuals of a scan hardly ever repeat: looking for more than runs costs time and bytes.
    data = _deflate(_filter(pixels), zlib.Z_RLE)
    _write(path, data, pixels.shape, _GREY, [])


def write_indexed(path: Path, pixels: np.ndarray, colors: Sequence[str]) -> None:
    """Write a picture with a palette, whose first colour is transparent.

    Parameters
    ----------
    path : Path
    pixels : (height, width) uint8 array
        Positions in the palette.
    colors : sequence of str
        ``#rrggbb``.
    """
    palette = bytes.fromhex(''.join(color.removeprefix('#') for color in colors))
    # Neighbouring indices mean nothing, so that predicting one from the other does not help.
    rows = np.pad(pixels, ((0, 0), (1, 0)))
    data = _deflate(rows, zlib.Z_DEFAULT_STRATEGY)
    _write(path, data, pixels.shape, _INDEXED, [(b'PLTE', palette), (b'tRNS', b'\0')])


def _filter(pixels: np.ndarray) -> np.ndarray:
    """Predict every byte from those to its left and above, by the best of PNG's ways per row.

    Returns
    -------
    (height, 1 + width) uint8 array
        Each row starts with the number of its filter.
    """
    # What lies above and to the left of the picture counts as 0.
    padded = np.pad(pixels, ((1, 0), (1, 0))).astype(np.int16)
    here, left, above, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    estimate = left + above - corner
    to_left, to_above, to_corner = (abs(estimate - near) for near in (left, above, corner))
    paeth = np.where(
        (to_left <= to_above) & (to_left <= to_corner),
        left,
        np.where(to_above <= to_corner, above, corner),
    )
    # Not filter 3: the mean of two greys of a coarse scale is none of that scale.
    filters = np.array([0, 1, 2, 4], dtype=np.uint8)
    predictions = (np.zeros_like(here), left, above, paeth)
    residuals = np.stack([(here - guess).astype(np.uint8) for guess in predictions])
    cost = abs(residuals.view(np.int8).astype(np.int16)).sum(axis=2)
    best = cost.argmin(axis=0)
    rows = residuals[best, np.arange(len(here))]
    return np.concatenate([filters[best][:, None], rows], axis=1)


def _deflate(rows: np.ndarray, strategy: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
    return compressor.compress(np.ascontiguousarray(rows).tobytes()) + compressor.flush()


def _write(
    path: Path,
    data: bytes,
    shape: tuple[int, ...],
    color_type: int,
    chunks: Sequence[tuple[bytes, bytes]],
) -> None:
    height, width = shape
    header = struct.pack('>IIBBBBB', width, height, 8, color_type, 0, 0, 0)
    parts = [b'\x89PNG\r\n\x1a\n']
    for name, content in [(b'IHDR', header), *chunks, (b'IDAT', data), (b'IEND', b'')]:
        checksum = zlib.crc32(name + content)
        parts += [struct.pack('>I', len(content)), name, content, struct.pack('>I', checksum)]
    path.write_bytes(b''.join(parts))
