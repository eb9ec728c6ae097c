"""Read scans from files or memory, in the background while others are segmented."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

from nibabel.spatialimages import SpatialImage

from ..images.volume_io import Volume, read_volume, volume_of

#: A path, or a nibabel image.
Source: TypeAlias = str | os.PathLike[str] | SpatialImage
_Source = TypeVar('_Source', bound=Source)


def read(image: Source) -> Volume:
    """Read a scan from a file or a nibabel image.

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
    """Read scans in the background, ahead of the current one.

    Parameters
    ----------
    images : iterable of path-like or SpatialImage
        Read lazily; may be endless.
    prefetch : int
        Number of scans to read ahead.

    Yields
    ------
    image
        The element of `images`.
    scan : future of Volume
        Its result raises the errors of :func:`read`.
    """
    waiting = iter(images)
    with ThreadPoolExecutor(max_workers=max(prefetch, 1)) as pool:

        def submit(n: int) -> list[tuple[_Source, Future[Volume]]]:
            return [(image, pool.submit(read, image)) for image in islice(waiting, n)]

        reading = submit(max(prefetch, 1))
        while reading:
            current = reading.pop(0)
            reading += submit(1)
            yield current
