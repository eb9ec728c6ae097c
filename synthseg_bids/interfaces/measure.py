"""Measure the structures of a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from .base import VersionedInputSpec


class _InputSpec(VersionedInputSpec):
    in_labels = File(exists=True, mandatory=True, desc='label map')
    in_file = File(exists=True, desc='the image, if its intensities are to be described, too')
    in_parcels = File(exists=True, desc='label map with parcels of the cortex, on the same grid')
    soft_volumes_mm3 = traits.List(traits.Float, desc='soft volume of each label, by channel')


class _OutputSpec(TraitedSpec):
    out_table = File(exists=True, desc='volumes, a row per structure and one for their total')
    out_stats = File(desc='the same with intensities, like aseg.stats of FreeSurfer; by in_file')
    out_parcel_stats = File(desc='the same of the parcels; by in_file and in_parcels')


class MeasureVolumes(SimpleInterface):
    """Write the volume of every structure of a label map, and of parcels, to a table."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.tables import measure_rows, write_morph_table
        from synthseg_bids.external.fs_stats import write_stats
        from synthseg_bids.images.volume_io import read_label_map, read_volume

        inputs, out = self.inputs, Path(runtime.cwd)
        segmentation = read_label_map(inputs.in_labels)
        soft = inputs.soft_volumes_mm3 if isdefined(inputs.soft_volumes_mm3) else None
        parcels = read_label_map(inputs.in_parcels) if isdefined(inputs.in_parcels) else None
        rows = measure_rows(
            segmentation.data, segmentation.affine, soft, parcels.data if parcels else None
        )
        out_table = out / 'morph.tsv'
        write_morph_table(out_table, rows)
        self._results['out_table'] = str(out_table)
        if isdefined(inputs.in_file):
            image = read_volume(inputs.in_file).data
            self._results['out_stats'] = str(out / 'aseg.stats')
            write_stats(out / 'aseg.stats', rows, image, segmentation.data)
            if parcels:
                self._results['out_parcel_stats'] = str(out / 'aparc.stats')
                write_stats(out / 'aparc.stats', rows, image, parcels.data, parcels=True)
        return runtime
