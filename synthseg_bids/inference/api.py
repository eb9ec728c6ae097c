"""Segmenting from Python: images in, images and pandas out.

>>> from synthseg_bids import Segmenter  # doctest: +SKIP
>>> segment = Segmenter()  # doctest: +SKIP
>>> result = segment(nibabel.load('scan.nii.gz'))  # doctest: +SKIP
>>> result.labels.to_filename('dseg.nii.gz')  # doctest: +SKIP
>>> result.volumes['Left-Hippocampus']  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from nibabel.spatialimages import SpatialImage

from ..errors import InputImageError, about
from ..images.volume_io import (
    Volume,
    header_of,
    label_image,
    posteriors_image,
    read_volume,
    volume_of,
)
from ..labels import channels_of, segmentation_labels
from ..measure.overlap import TOTAL_NAME, total_intracranial, volumes_from_labels
from . import segmenter
from .result import NetworkPosteriors, Segmentation

if TYPE_CHECKING:
    import nibabel as nib
    import pandas as pd

#: A path, or an image of nibabel.
Source: TypeAlias = str | os.PathLike[str] | SpatialImage


@dataclass(frozen=True, repr=False)
class Result:
    """What the segmentation of a scan gives.

    It holds on to the network's posteriors, some 500 MB for a head at 1 mm, from which those on
    the grid of the scan are computed: of many scans keep what you need, not the results.

    Attributes
    ----------
    scan : Volume
        The scan as read.
    segmentation : Segmentation
        The numbers behind everything else, as arrays.
    """

    scan: Volume
    segmentation: Segmentation
    _segmenter: segmenter.Segmenter
    _found: NetworkPosteriors

    def __repr__(self) -> str:
        size = ' x '.join(map(str, self.scan.shape))
        found = self.segmentation
        took = f'{found.seconds:.1f} s on {found.device}'
        return f'<Result {self.scan.path.name}: {size} voxels segmented in {took}>'

    @cached_property
    def labels(self) -> nib.Nifti1Image:
        """Label map on the grid of the scan, in FreeSurfer's numbers."""
        image = label_image(self.segmentation.labels, self.scan)
        return type(image)(image.dataobj, self.scan.affine, image.header)

    @cached_property
    def posteriors(self) -> nib.Nifti1Image:
        """Probability of every label on the grid of the scan, 4D; computed when first asked for.

        float32 in steps of about 1/255, which sum to 1 in every voxel. The volumes are in the
        order of the model card's labels.
        """
        maps = self._segmenter.finish(self._found, posteriors=True).posteriors
        assert maps is not None
        # In memory no scale factor is applied to bytes, as it is when a file is read.
        as_bytes = posteriors_image(maps, self.scan.affine, self.scan)
        values = np.asanyarray(as_bytes.dataobj).astype(np.float32)
        # Rounded to bytes, the channels of a voxel sum to 253 to 257.
        values /= values.sum(-1, keepdims=True)
        return type(as_bytes)(values, self.scan.affine)

    @cached_property
    def volumes(self) -> pd.Series:
        """Volume of every structure of the label map, and of all of them, in mm^3, by name."""
        import pandas as pd

        volumes = volumes_from_labels(self.segmentation.labels, self.scan.affine)
        by_name = {
            label.name: volumes.get(label.index, (0, 0.0))[1]
            for label in channels_of(len(self._segmenter.card.labels))
            if label.index
        }
        by_name[TOTAL_NAME] = total_intracranial(volumes)
        for channel in self._segmenter.card.unknown_channels:
            by_name[segmentation_labels()[channel].name] = by_name[TOTAL_NAME] = np.nan
        return pd.Series(by_name, name='volume_mm3')

    @cached_property
    def qc(self) -> pd.DataFrame:
        """Quality control: a row per measure, the verdict last; see ``docs/qc.rst``."""
        import pandas as pd

        from ..measure.qc import assess

        found = self.segmentation
        rows = assess(
            self.scan.data,
            found.labels,
            self.scan.affine,
            header_of(self.scan),
            found.confidence.tolist(),
            None if found.flip_dice is None else found.flip_dice.tolist(),
            model_sha256=self._segmenter.card.sha256,
            ct=found.ct,
            unsure_mm3=found.unsure_mm3,
            turned=(found.turned.code, found.turned.gain) if found.turned else None,
        )
        return pd.DataFrame(rows).set_index('measure')


class Segmenter(segmenter.Segmenter):
    """A network that segments scans of any contrast and resolution.

    One object serves one thread at a time. Several objects share nothing but the number of CPU
    threads, which is that of the process.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model, or a file of weights.
    device : str or torch.device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    flip : bool
        Average with the segmentation of the mirrored scan: better, and the network runs twice.
    threads : int, optional
        CPU threads (default: as the process is set up).
    fallback : bool
        Go on on the CPU if a GPU fails or its memory is too small.
    autocrop : bool
        Look for the brain first, where the network was trained on crops.
    low_memory : bool
        Keep forward passes below a gigabyte, if need be at the cost of accuracy.
    memory_limit : int, optional
        Bytes that a forward pass may plan with, instead of all that are free.
    """

    def __call__(self, image: Source, ct: bool | None = None) -> Result:
        """Segment a scan.

        Parameters
        ----------
        image : path-like, or nibabel.spatialimages.SpatialImage
        ct : bool, optional
            Whether it is a CT scan, in Hounsfield units (default: where its intensities are).

        Returns
        -------
        Result

        Raises
        ------
        InputImageError
            If it cannot be read, or is not one 3D volume of real numbers that differ.
        TypeError
            If it is neither a path nor an image.
        """
        return self._segment(_read(image), ct)

    def batch(
        self, images: Iterable[Source], ct: bool | None = None, prefetch: int = 2
    ) -> Iterator[tuple[Source, Result | ValueError]]:
        """Segment scans one after the other, reading ahead while the network runs.

        Parameters
        ----------
        images : iterable of path-like or SpatialImage
            Taken one by one, so that it may be endless.
        ct : bool, optional
        prefetch : int
            How many scans are read ahead.

        Yields
        ------
        image
            As given.
        result : Result or InputImageError
            A scan that cannot be used costs the others nothing.
        """
        waiting = iter(images)
        with ThreadPoolExecutor(max_workers=max(prefetch, 1)) as pool:

            def ask(n: int) -> list[tuple[Source, Future[Volume]]]:
                return [(image, pool.submit(_read, image)) for image in islice(waiting, n)]

            asked = ask(max(prefetch, 1))
            while asked:
                image, scan = asked.pop(0)
                asked += ask(1)
                yield image, self._try(scan, ct)

    def _try(self, reading: Future[Volume], ct: bool | None) -> Result | ValueError:
        """Segment a scan that is being read, or return why that cannot be done."""
        try:
            scan = reading.result()
        except ValueError as error:
            return error
        except TypeError as error:
            return InputImageError(str(error))
        try:
            return self._segment(scan, ct)
        except InputImageError as error:
            return error

    def _segment(self, scan: Volume, ct: bool | None) -> Result:
        with about(scan.path):
            found = self.find(scan.data, scan.affine, ct)
        return Result(scan, self.finish(found), self, found)


def _read(image: Source) -> Volume:
    if isinstance(image, SpatialImage):
        return volume_of(image)
    if not isinstance(image, str | os.PathLike):
        raise TypeError(
            f'{type(image).__name__}: give a path or a nibabel image (of an array: '
            'nibabel.Nifti1Image(array, affine))'
        )
    return read_volume(Path(image))
