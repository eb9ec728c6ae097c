"""What interfaces that segment several images together need of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import File, InputMultiPath, isdefined, traits

from synthseg_bids.inference.options import LESIONS
from synthseg_bids.models import DEFAULT_MODEL

from .base import VersionedInputSpec
from .priors import prior_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from synthseg_bids.images.volume_io import Volume
    from synthseg_bids.inference.combine import Contrast
    from synthseg_bids.inference.segmenter import Segmenter
    from synthseg_bids.inference.soft_segmentation import SoftSegmentation

#: Whether an image is CT, as nodes ask for it; None if its intensities are to tell.
CT_WORDS = {None: 'auto', True: 'yes', False: 'no'}


class _ImagesInputSpec(VersionedInputSpec):
    in_files = InputMultiPath(
        File(exists=True), mandatory=True, desc='images of one head, of any contrasts'
    )
    ct = traits.List(
        traits.Enum(*CT_WORDS.values()),
        usedefault=True,
        desc='whether each image is CT (default: detected by its intensities)',
    )


class EachInputSpec(_ImagesInputSpec):
    """Inputs of nodes that look at each of several images that were segmented together."""

    in_labels = InputMultiPath(File(exists=True), mandatory=True, desc='label maps of images')
    used = traits.List(
        traits.Int, desc='number of the image of each label map (undefined: one after the other)'
    )


class TogetherInputSpec(_ImagesInputSpec):
    """Inputs of nodes that segment several images of one head."""

    model = traits.Str(DEFAULT_MODEL, usedefault=True, desc='name or weights file')
    model_sha256 = traits.Str(
        '', usedefault=True, desc='checksum of the weights file; part of the cache key'
    )
    flip = traits.Bool(True, usedefault=True, desc='average with the mirrored image')
    autocrop = traits.Bool(True, usedefault=True, desc='crop to the brain first')
    lesions = traits.Enum(
        *LESIONS, usedefault=True, desc='lesions of the white matter are a label, or part of it'
    )
    priors_dir = traits.Str(
        nohash=True,
        desc='folder with what SegmentImage has kept; images that have nothing there are '
        'segmented again',
    )
    num_threads = traits.Int(nohash=True, desc='CPU threads')


def segmenter_of(inputs: Any) -> Segmenter:
    """Return the network of a node, on the CPU."""
    from synthseg_bids.hardware.device import set_threads
    from synthseg_bids.inference.options import ComputeOptions, SegmentOptions
    from synthseg_bids.inference.segmenter import cached_segmenter

    threads = inputs.num_threads if isdefined(inputs.num_threads) else None
    set_threads(threads)
    return cached_segmenter(
        SegmentOptions(inputs.model, inputs.flip, inputs.autocrop, inputs.lesions),
        ComputeOptions('cpu', threads),
    )


def labels_of_each(inputs: Any) -> Iterator[tuple[int, str]]:
    """Iterate over the numbers of the images that were segmented together, and their label maps.

    Parameters
    ----------
    inputs : EachInputSpec
    """
    used = inputs.used if isdefined(inputs.used) else range(len(inputs.in_files))
    return zip(used, inputs.in_labels, strict=True)


def ct_of(inputs: Any, number: int) -> bool | None:
    """Return whether an image is CT; None if its intensities are to tell."""
    return {'yes': True, 'no': False}.get(inputs.ct[number] if inputs.ct else '')


def prior_of(inputs: Any, number: int, segmenter: Segmenter) -> SoftSegmentation:
    """Read what the network has predicted for an image; where it is gone, predict it."""
    from synthseg_bids.errors import about
    from synthseg_bids.images.volume_io import read_volume
    from synthseg_bids.inference.soft_segmentation import SoftSegmentation

    path, ct = inputs.in_files[number], ct_of(inputs, number)
    if isdefined(inputs.priors_dir):
        kept = prior_file(inputs.priors_dir, path, inputs, ct)
        if kept.exists():
            return SoftSegmentation.load(kept)
    volume = read_volume(path)
    with about(path):
        found = segmenter.predict(volume.data, volume.affine, ct, keep_prior=True).prior
    assert found is not None
    return found


def contrast_of(inputs: Any, number: int, segmenter: Segmenter) -> tuple[Volume, Contrast]:
    """Read an image, and what the network has predicted for it."""
    from synthseg_bids.images.background import without_far_background
    from synthseg_bids.images.ct import is_ct
    from synthseg_bids.images.volume_io import read_volume
    from synthseg_bids.inference.combine import Contrast

    volume = read_volume(inputs.in_files[number])
    ct = is_ct(ct_of(inputs, number), volume.data)
    data, _ = without_far_background(volume.data)
    return volume, Contrast(data, volume.affine, prior_of(inputs, number, segmenter), ct)


def write_volumes(path: Path, labels: np.ndarray, affine: np.ndarray, soft: np.ndarray) -> None:
    """Write the volumes of a label map, and the soft volumes of its labels, as a table."""
    from synthseg_bids.bids.tables import morph_rows, write_morph_table
    from synthseg_bids.measure.overlap import total_intracranial, volumes_from_labels

    volumes = volumes_from_labels(labels, affine)
    rows = morph_rows(volumes, total_intracranial(volumes), [float(v) for v in soft])
    write_morph_table(path, rows)
