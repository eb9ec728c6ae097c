"""Segment all images of a session together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import File, OutputMultiPath, SimpleInterface, TraitedSpec, traits

from .network import (
    TogetherInputSpec,
    contrast_of,
    parcels_sha256_of,
    segmenter_of,
    write_scan_labels,
)

if TYPE_CHECKING:
    import numpy as np

    from synthseg_bids.inference.combine import Combination


class _OutputSpec(TraitedSpec):
    used = traits.List(traits.Int, desc='numbers of the images that were combined')
    refused = traits.List(traits.Str, desc='why others were not: their paths, and a reason')
    out_common = File(exists=True, desc='label map of 1 mm in the space halfway between them')
    out_labels = OutputMultiPath(
        File(exists=True), desc='label map on the grid of each image that was combined'
    )
    out_common_parcels = File(desc='the same with parcels in the place of the cortex')
    out_parcels = OutputMultiPath(
        File(exists=True), desc='that of each image with parcels in the place of the cortex'
    )
    out_volumes = OutputMultiPath(File(exists=True), desc='table of volumes of each of them')
    out_transforms = OutputMultiPath(
        File(exists=True), desc='transform of each of them to the space halfway'
    )
    out_pairs = OutputMultiPath(
        File(exists=True), desc='transform of each of them to each later one'
    )
    parcels_sha256 = traits.Str(
        desc='checksum of the weights that named the parcels; empty without them'
    )
    overlaps = traits.List(
        traits.Float, desc='soft Dice of the structures of each image with those of the others'
    )
    residuals_mm = traits.List(
        traits.Float, desc='RMS distance of the centroids of structures from their means'
    )


class SegmentSession(SimpleInterface):
    """Segment all images of a session together; on the CPU."""

    input_spec = TogetherInputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.images.volume_io import write_image
        from synthseg_bids.inference.combine import combine

        inputs, out = self.inputs, Path(runtime.cwd)
        segmenter = segmenter_of(inputs)
        images = [contrast_of(inputs, n, segmenter) for n in range(len(inputs.in_files))]
        volumes, scans, _ = zip(*images, strict=True)
        found = combine(scans, segmenter.card, segmenter.labels)
        common = found.on_common_grid(segmenter.parcellator)
        write_image(out / 'common.nii.gz', common.labels, found.grid.affine)
        if common.parcels is not None:
            write_image(out / 'common_parcels.nii.gz', common.parcels, found.grid.affine)
            self._results['out_common_parcels'] = str(out / 'common_parcels.nii.gz')
        self._results |= {
            'used': list(found.used),
            'refused': [f'{inputs.in_files[n]}: {why}' for n, why in found.refused.items()],
            'out_common': str(out / 'common.nii.gz'),
            'overlaps': list(found.registration.overlaps),
            'residuals_mm': list(found.registration.centroid_mm),
        }
        used = [volumes[number] for number in found.used]
        own = (
            found.on_scan(number, volume.grid, segmenter.parcellator)
            for number, volume in enumerate(used)
        )
        self._results |= write_scan_labels(out, own, used)
        self._write_transforms(found, out)
        self._results['parcels_sha256'] = parcels_sha256_of(inputs)
        return runtime

    def _write_transforms(self, found: Combination, out: Path) -> None:
        from synthseg_bids.images.transform_file import write_transform

        def write(name: str, matrix: np.ndarray) -> str:
            write_transform(out / name, matrix)
            return str(out / name)

        moves, n = found.registration, len(found.used)
        self._results['out_transforms'] = [
            write(f'xfm_{number}.txt', moves.to_scans[number]) for number in range(n)
        ]
        # A transform that brings images of the first to the second maps positions the other way.
        self._results['out_pairs'] = [
            write(f'xfm_{one}_{other}.txt', moves.between(other, one))
            for one in range(n)
            for other in range(one + 1, n)
        ]
