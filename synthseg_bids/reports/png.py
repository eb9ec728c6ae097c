"""PNG files of the figures."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_grey(path: Path, pixels: np.ndarray) -> None:
    """Write a greyscale picture.

    Parameters
    ----------
    path : Path
    pixels : (height, width) uint8 array
    """
    # Residuals of a scan hardly ever repeat: looking for more than runs costs time and bytes.
    Image.fromarray(pixels).save(path, compress_level=9, compress_type=zlib.Z_RLE)


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
    picture = Image.fromarray(pixels)
    picture.putpalette(bytes.fromhex(''.join(color.removeprefix('#') for color in colors)))
    picture.save(path, optimize=True, transparency=0)
