"""Segment all visits of a participant together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, OutputMultiPath, SimpleInterface, TraitedSpec, traits

from .network import (
    TogetherInputSpec,
    contrast_of,
    parcels_sha256_of,
    segmenter_of,
    write_scan_labels,
)


class _InputSpec(TogetherInputSpec):
    visits = traits.List(traits.Str, mandatory=True, desc='visit of each image')
    contrasts = traits.List(
        traits.Str,
        mandatory=True,
        desc='contrast of each image; changes between images of the same one are followed by '
        'their intensities',
    )


class _OutputSpec(TraitedSpec):
    out_labels = OutputMultiPath(
        File(exists=True), desc='label map of each image, on its grid, in the order of in_files'
    )
    out_parcels = OutputMultiPath(
        File(exists=True), desc='the same with parcels in the place of the cortex'
    )
    out_volumes = OutputMultiPath(File(exists=True), desc='table of volumes of each image')
    out_transforms = OutputMultiPath(
        File(exists=True), desc='transform of each image to the space halfway between all'
    )
    parcels_sha256 = traits.Str(
        desc='checksum of the weights that named the parcels; empty without them'
    )
    overlaps = traits.List(
        traits.Float, desc='soft Dice of the structures of each image with those of the others'
    )
    followed = traits.List(
        traits.Bool, desc='whether changes of each image are followed by intensities'
    )


class SegmentVisits(SimpleInterface):
    """Segment the images of all visits of a participant, together; on the CPU."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.images.geometry import Grid, voxel_volume_mm3
        from synthseg_bids.images.transform_file import write_transform
        from synthseg_bids.inference.longitudinal import (
            compare_visits,
            refine_compared,
            register_visits,
            segment_visit,
        )

        inputs, out = self.inputs, Path(runtime.cwd)
        segmenter = segmenter_of(inputs)
        seen = [contrast_of(inputs, n, segmenter) for n in range(len(inputs.in_files))]
        volumes, scans, borders = zip(*seen, strict=True)
        priors = [scan.prior for scan in scans]
        images = [(scan.intensities, scan.affine) for scan in scans]
        registration = register_visits(priors, inputs.in_files, images)
        changes = compare_visits(priors, images, inputs.visits, inputs.contrasts, registration)
        refined = refine_compared(scans, changes, segmenter.card)
        self._results['overlaps'] = list(registration.overlaps)
        self._results['followed'] = [bool(changes.alike(n)) for n in range(len(scans))]
        found = (
            segment_visit(
                Grid(scan.data.shape, scan.affine), refined, inputs.visits, registration, changes,
                number, segmenter.card, segmenter.labels, segmenter.parcellator,
            ).with_borders(cut, voxel_volume_mm3(scan.affine))
            for number, (scan, cut) in enumerate(zip(scans, borders, strict=True))
        )  # fmt: skip
        self._results |= write_scan_labels(out, found, volumes)
        self._results['out_transforms'] = []
        for number, matrix in enumerate(registration.to_scans):
            write_transform(out / f'xfm_{number}.txt', matrix)
            self._results['out_transforms'].append(str(out / f'xfm_{number}.txt'))
        self._results['parcels_sha256'] = parcels_sha256_of(inputs)
        return runtime
