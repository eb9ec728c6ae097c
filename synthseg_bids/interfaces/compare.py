"""Compare a segmentation with references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from .base import VersionedInputSpec


class _InputSpec(VersionedInputSpec):
    in_labels = File(exists=True, mandatory=True, desc='our label map')
    in_parcels = File(exists=True, desc='our label map with parcels of the cortex')
    references = traits.Dict(
        traits.Str, traits.Str, mandatory=True, desc='FreeSurfer-style label maps by name'
    )


class _OutputSpec(TraitedSpec):
    out_table = File(desc='overlaps; undefined if no reference could be used')
    compared = traits.List(traits.Str, desc='names of the references in the table')
    refused = traits.List(traits.Str, desc='why the other references were not used')


class CompareSegmentations(SimpleInterface):
    """Compute the overlap of a label map with references, on the grids of the references.

    Parcels of the cortex are compared where a reference has them, too. A reference that cannot be
    read or whose labels are not FreeSurfer's is left out and named in
    ``refused``.
    """

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.tables import write_dice_table
        from synthseg_bids.images.volume_io import InputImageError, read_label_map
        from synthseg_bids.labels import LabelSchemeError
        from synthseg_bids.measure.overlap import FieldOfViewError, compare_to_reference
        from synthseg_bids.measure.parcel_overlap import compare_parcels

        inputs = self.inputs
        ours = read_label_map(inputs.in_labels)
        parcels = read_label_map(inputs.in_parcels) if isdefined(inputs.in_parcels) else None
        rows, compared, refused = [], [], []
        for name, path in inputs.references.items():
            try:
                theirs = read_label_map(path)
                found = compare_to_reference(
                    ours.data, ours.affine, theirs.data, theirs.affine, source=path
                )
                if parcels:
                    *structures, mean = found
                    on_theirs = parcels.data, parcels.affine, theirs.data, theirs.affine
                    found = [*structures, *compare_parcels(*on_theirs), mean]
            except (InputImageError, LabelSchemeError, FieldOfViewError) as error:
                refused.append(str(error))
            else:
                rows += [{'reference': name, **row} for row in found]
                compared.append(name)
        self._results |= {'compared': compared, 'refused': refused}
        if compared:
            out_table = Path(runtime.cwd) / 'dice.tsv'
            write_dice_table(out_table, rows)
            self._results['out_table'] = str(out_table)
        return runtime
