"""Measure the structures of a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from .base import VersionedInputSpec


class _InputSpec(VersionedInputSpec):
    in_labels = File(exists=True, mandatory=True, desc='label map')
    in_file = File(exists=True, desc='the image, if its intensities are to be described, too')
    soft_volumes_mm3 = traits.List(traits.Float, desc='soft volume of each label, by channel')


class _OutputSpec(TraitedSpec):
    out_table = File(exists=True, desc='volumes, a row per structure and one for their total')
    out_stats = File(desc='the same with intensities, like aseg.stats of FreeSurfer; by in_file')


class MeasureVolumes(SimpleInterface):
    """Write the volume of every structure of a label map to a table."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.tables import morph_rows, write_morph_table
        from synthseg_bids.external.fs_stats import write_stats
        from synthseg_bids.images.volume_io import read_label_map, read_volume
        from synthseg_bids.measure.overlap import total_intracranial, volumes_from_labels

        segmentation = read_label_map(self.inputs.in_labels)
        volumes = volumes_from_labels(segmentation.data, segmentation.affine)
        soft = self.inputs.soft_volumes_mm3
        rows = morph_rows(volumes, total_intracranial(volumes), soft if isdefined(soft) else None)
        out_table = Path(runtime.cwd) / 'morph.tsv'
        write_morph_table(out_table, rows)
        self._results['out_table'] = str(out_table)
        if isdefined(self.inputs.in_file):
            out_stats = Path(runtime.cwd) / 'aseg.stats'
            write_stats(out_stats, rows, read_volume(self.inputs.in_file).data, segmentation.data)
            self._results['out_stats'] = str(out_stats)
        return runtime
