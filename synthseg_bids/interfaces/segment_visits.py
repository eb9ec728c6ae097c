"""Segment all visits of a participant together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import (
    File,
    InputMultiPath,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from synthseg_bids.inference.options import LESIONS
from synthseg_bids.models import DEFAULT_MODEL

from .base import VersionedInputSpec
from .priors import prior_file

if TYPE_CHECKING:
    from synthseg_bids.inference.segmenter import Segmenter
    from synthseg_bids.inference.soft_segmentation import SoftSegmentation


class _InputSpec(VersionedInputSpec):
    in_files = InputMultiPath(
        File(exists=True), mandatory=True, desc='images of one participant, of any contrasts'
    )
    visits = traits.List(traits.Str, mandatory=True, desc='visit of each image')
    ct = traits.List(
        traits.Enum('auto', True, False),
        usedefault=True,
        desc='whether each image is CT (default: detected by its intensities)',
    )
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


class _OutputSpec(TraitedSpec):
    out_labels = OutputMultiPath(
        File(exists=True), desc='label map of each image, on its grid, in the order of in_files'
    )
    out_volumes = OutputMultiPath(File(exists=True), desc='table of volumes of each image')
    out_transforms = OutputMultiPath(
        File(exists=True), desc='transform of each image to the space halfway between all'
    )
    overlaps = traits.List(
        traits.Float, desc='soft Dice of the structures of each image with those of the others'
    )


class SegmentVisits(SimpleInterface):
    """Segment the images of all visits of a participant with a common prior; on the CPU."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.errors import about
        from synthseg_bids.hardware.device import set_threads
        from synthseg_bids.images.transform_file import write_transform
        from synthseg_bids.images.volume_io import read_volume, write_label_map
        from synthseg_bids.inference.longitudinal import register_visits, segment_visit

        inputs, out = self.inputs, Path(runtime.cwd)
        segmenter = self._segmenter()
        set_threads(inputs.num_threads if isdefined(inputs.num_threads) else None)
        priors = [self._prior(number, segmenter) for number in range(len(inputs.in_files))]
        registration = register_visits(priors)
        self._results |= {name: [] for name in ('out_labels', 'out_volumes', 'out_transforms')}
        self._results['overlaps'] = list(registration.overlaps)
        for number, path in enumerate(inputs.in_files):
            volume = read_volume(path)
            with about(path):
                labels, soft = segment_visit(
                    volume.data, volume.affine, priors, inputs.visits, registration, number,
                    segmenter.card, segmenter.labels, self._ct(number),
                )  # fmt: skip
            write_label_map(out / f'dseg_{number}.nii.gz', labels, volume)
            write_transform(out / f'xfm_{number}.txt', registration.to_scans[number])
            self._results['out_labels'].append(str(out / f'dseg_{number}.nii.gz'))
            self._results['out_transforms'].append(str(out / f'xfm_{number}.txt'))
            table = out / f'morph_{number}.tsv'
            _write_volumes(table, labels, volume.affine, soft)
            self._results['out_volumes'].append(str(table))
        return runtime

    def _ct(self, number: int) -> bool | None:
        given = self.inputs.ct[number] if self.inputs.ct else 'auto'
        return None if given == 'auto' else bool(given)

    def _segmenter(self) -> Segmenter:
        from synthseg_bids.inference.options import ComputeOptions, SegmentOptions
        from synthseg_bids.inference.segmenter import cached_segmenter

        inputs = self.inputs
        return cached_segmenter(
            SegmentOptions(inputs.model, inputs.flip, inputs.autocrop, inputs.lesions),
            ComputeOptions('cpu', inputs.num_threads if isdefined(inputs.num_threads) else None),
        )

    def _prior(self, number: int, segmenter: Segmenter) -> SoftSegmentation:
        """Read what the network has predicted for an image; where it is gone, predict it."""
        from synthseg_bids.errors import about
        from synthseg_bids.images.volume_io import read_volume
        from synthseg_bids.inference.soft_segmentation import SoftSegmentation

        inputs = self.inputs
        path, ct = inputs.in_files[number], self._ct(number)
        if isdefined(inputs.priors_dir):
            kept = prior_file(inputs.priors_dir, path, inputs, ct)
            if kept.exists():
                return SoftSegmentation.load(kept)
        volume = read_volume(path)
        with about(path):
            found = segmenter.predict(volume.data, volume.affine, ct, keep_prior=True).prior
        assert found is not None
        return found


def _write_volumes(path: Path, labels: Any, affine: Any, soft: Any) -> None:
    from synthseg_bids.bids.tables import morph_rows, write_morph_table
    from synthseg_bids.measure.overlap import total_intracranial, volumes_from_labels

    volumes = volumes_from_labels(labels, affine)
    rows = morph_rows(volumes, total_intracranial(volumes), [float(v) for v in soft])
    write_morph_table(path, rows)
