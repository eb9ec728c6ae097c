"""What interfaces that segment several images together need of the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import File, InputMultiPath, isdefined, traits

from synthseg_bids.inference.options import LESIONS
from synthseg_bids.models import DEFAULT_MODEL, PARCEL_MODEL

from .base import VersionedInputSpec
from .priors import prior_file

if TYPE_CHECKING:
    from pathlib import Path

    from synthseg_bids.images.volume_io import Volume
    from synthseg_bids.inference.combine import Contrast
    from synthseg_bids.inference.empty_borders import EmptyBorders
    from synthseg_bids.inference.label_scan import ScanLabels
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
    in_parcels = InputMultiPath(
        File(exists=True), desc='label maps with parcels of the cortex, on the same grids'
    )
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
    parcels = traits.Bool(
        False, usedefault=True, desc='write label maps with parcels of the cortex as well'
    )
    parcels_sha256 = traits.Str(
        '', usedefault=True, desc='checksum of the weights for parcels; part of the cache key'
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
        SegmentOptions(inputs.model, inputs.flip, inputs.autocrop, inputs.lesions, inputs.parcels),
        ComputeOptions('cpu', threads),
    )


def parcels_sha256_of(inputs: Any) -> str:
    """Return the checksum of the weights that name parcels; empty if they are not asked for."""
    from synthseg_bids.inference.memory_estimate import describe_model
    from synthseg_bids.models.registry import model_path

    return describe_model(model_path(PARCEL_MODEL)).sha256 if inputs.parcels else ''


def labels_of_each(inputs: Any) -> Iterator[tuple[int, dict[str, str]]]:
    """Iterate over the numbers of the images that were segmented together, and their label maps.

    These are ``dseg`` and, if there is one with parcels of the cortex, ``parcels``.

    Parameters
    ----------
    inputs : EachInputSpec
    """
    used = inputs.used if isdefined(inputs.used) else range(len(inputs.in_files))
    kinds = {'dseg': inputs.in_labels}
    if isdefined(inputs.in_parcels):
        kinds['parcels'] = inputs.in_parcels
    for number, *files in zip(used, *kinds.values(), strict=True):
        yield number, dict(zip(kinds, files, strict=True))


def ct_of(inputs: Any, number: int) -> bool | None:
    """Return whether an image is CT; None if its intensities are to tell."""
    return {'yes': True, 'no': False}.get(inputs.ct[number] if inputs.ct else '')


def prior_of(inputs: Any, number: int, volume: Volume, segmenter: Segmenter) -> SoftSegmentation:
    """Read what the network has predicted for an image; where it is gone, predict it."""
    from synthseg_bids.errors import about
    from synthseg_bids.inference.soft_segmentation import SoftSegmentation

    path, ct = inputs.in_files[number], ct_of(inputs, number)
    if isdefined(inputs.priors_dir):
        kept = prior_file(inputs.priors_dir, path, inputs, ct)
        if kept.exists():
            return SoftSegmentation.load(kept)
    with about(path):
        return segmenter.prior(volume.data, volume.affine, ct)


def contrast_of(
    inputs: Any, number: int, segmenter: Segmenter
) -> tuple[Volume, Contrast, EmptyBorders]:
    """Read an image, and what the network has predicted for it.

    Returns
    -------
    volume : Volume
        The image.
    scan : Contrast
        The image as it was segmented, without empty borders.
    borders : EmptyBorders
        These borders.
    """
    from synthseg_bids.images.background import without_far_background
    from synthseg_bids.images.ct import is_ct
    from synthseg_bids.images.volume_io import read_volume
    from synthseg_bids.inference.combine import Contrast
    from synthseg_bids.inference.empty_borders import cut_empty_borders

    volume = read_volume(inputs.in_files[number])
    data, affine, borders = cut_empty_borders(volume.data, volume.affine)
    ct = is_ct(ct_of(inputs, number), data)
    data, _ = without_far_background(data)
    prior = prior_of(inputs, number, volume, segmenter)
    return volume, Contrast(data, affine, prior, ct), borders


def write_scan_labels(
    out: Path, found: Iterable[ScanLabels], volumes: Iterable[Volume]
) -> dict[str, list[str]]:
    """Write label maps, tables of volumes and, where there are any, parcels of several scans.

    Returns
    -------
    dict of str to list of str
        The paths, by the name of the output: ``out_labels``, ``out_volumes``, ``out_parcels``.
    """
    from synthseg_bids.bids.tables import measure_rows, write_morph_table
    from synthseg_bids.images.volume_io import write_label_map

    written: dict[str, list[str]] = {'out_labels': [], 'out_volumes': [], 'out_parcels': []}
    for number, (one, volume) in enumerate(zip(found, volumes, strict=True)):
        path, table = out / f'dseg_{number}.nii.gz', out / f'morph_{number}.tsv'
        write_label_map(path, one.labels, volume)
        if one.parcels is not None:
            parcels = out / f'parcels_{number}.nii.gz'
            write_label_map(parcels, one.parcels, volume)
            written['out_parcels'].append(str(parcels))
        rows = measure_rows(one.labels, volume.affine, one.volumes.tolist(), one.parcels)
        write_morph_table(table, rows)
        written['out_labels'].append(str(path))
        written['out_volumes'].append(str(table))
    return {name: paths for name, paths in written.items() if paths}
