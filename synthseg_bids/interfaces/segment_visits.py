"""Segment all visits of a participant together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, OutputMultiPath, SimpleInterface, TraitedSpec, traits

from .network import TogetherInputSpec, ct_of, prior_of, segmenter_of


class _InputSpec(TogetherInputSpec):
    visits = traits.List(traits.Str, mandatory=True, desc='visit of each image')


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
        from synthseg_bids.images.transform_file import write_transform
        from synthseg_bids.images.volume_io import read_volume, write_label_map
        from synthseg_bids.inference.longitudinal import register_visits, segment_visit

        inputs, out = self.inputs, Path(runtime.cwd)
        segmenter = segmenter_of(inputs)
        priors = [prior_of(inputs, number, segmenter) for number in range(len(inputs.in_files))]
        registration = register_visits(priors)
        self._results |= {name: [] for name in ('out_labels', 'out_volumes', 'out_transforms')}
        self._results['overlaps'] = list(registration.overlaps)
        for number, path in enumerate(inputs.in_files):
            volume = read_volume(path)
            with about(path):
                labels, soft = segment_visit(
                    volume.data, volume.affine, priors, inputs.visits, registration, number,
                    segmenter.card, segmenter.labels, ct_of(inputs, number),
                )  # fmt: skip
            write_label_map(out / f'dseg_{number}.nii.gz', labels, volume)
            write_transform(out / f'xfm_{number}.txt', registration.to_scans[number])
            self._results['out_labels'].append(str(out / f'dseg_{number}.nii.gz'))
            self._results['out_transforms'].append(str(out / f'xfm_{number}.txt'))
            table = out / f'morph_{number}.tsv'
            _write_volumes(table, labels, volume.affine, soft)
            self._results['out_volumes'].append(str(table))
        return runtime


def _write_volumes(path: Path, labels: Any, affine: Any, soft: Any) -> None:
    from synthseg_bids.bids.tables import morph_rows, write_morph_table
    from synthseg_bids.measure.overlap import total_intracranial, volumes_from_labels

    volumes = volumes_from_labels(labels, affine)
    rows = morph_rows(volumes, total_intracranial(volumes), [float(v) for v in soft])
    write_morph_table(path, rows)
