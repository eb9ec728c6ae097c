"""Scans from wherever they are, read while others are segmented."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

from nibabel.spatialimages import SpatialImage

from ..images.volume_io import Volume, read_volume, volume_of

#: A path, or an image of nibabel.
Source: TypeAlias = str | os.PathLike[str] | SpatialImage
_Source = TypeVar('_Source', bound=Source)


def read(image: Source) -> Volume:
    """Read a scan, or take it from an image in memory.

    Raises
    ------
    InputImageError
        See :func:`~synthseg_bids.images.volume_io.read_volume`.
    TypeError
        If it is neither a path nor an image.
    """
    if isinstance(image, SpatialImage):
        return volume_of(image)
    if not isinstance(image, str | os.PathLike):
        raise TypeError(
            f'{type(image).__name__}: give a path or a nibabel image (of an array: '
            'nibabel.Nifti1Image(array, affine))'
        )
    return read_volume(Path(image))


def read_ahead(
    images: Iterable[_Source], prefetch: int = 2
) -> Iterator[tuple[_Source, Future[Volume]]]:
    """Read scans in the background, a few ahead of the one that is asked for.

    Parameters
    ----------
    images : iterable of path-like or SpatialImage
        Taken one by one, so that it may be endless.
    prefetch : int
        How many scans are read ahead.

    Yields
    ------
    image
        As given.
    scan : future of Volume
        Its result raises what :func:`read` does.
    """
    waiting = iter(images)
    with ThreadPoolExecutor(max_workers=max(prefetch, 1)) as pool:

        def ask(n: int) -> list[tuple[_Source, Future[Volume]]]:
            return [(image, pool.submit(read, image)) for image in islice(waiting, n)]

        asked = ask(max(prefetch, 1))
        while asked:
            now = asked.pop(0)
            asked += ask(1)
            yield now
