"""Compare segmentations with references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from .base import VersionedInputSpec
from .network import labels_of_each


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
        inputs = self.inputs
        parcels = inputs.in_parcels if isdefined(inputs.in_parcels) else None
        out_table = Path(runtime.cwd) / 'dice.tsv'
        compared, refused = _compare(inputs.in_labels, inputs.references, out_table, parcels)
        self._results |= {'compared': compared, 'refused': refused}
        if compared:
            self._results['out_table'] = str(out_table)
        return runtime


class _SessionInputSpec(VersionedInputSpec):
    in_labels = InputMultiPath(File(exists=True), mandatory=True, desc='label maps')
    in_parcels = InputMultiPath(File(exists=True), desc='those with parcels of the cortex')
    used = traits.List(traits.Int, mandatory=True, desc='number of the image of each')
    references = traits.List(
        traits.Dict(traits.Str, traits.Str),
        mandatory=True,
        desc='for each image of the session, FreeSurfer-style label maps by name',
    )


class _SessionOutputSpec(TraitedSpec):
    out_tables = traits.List(traits.Str, desc='overlaps; empty where no reference could be used')
    compared = traits.List(traits.List(traits.Str), desc='names of the references in each table')
    refused = traits.List(traits.Str, desc='why other references were not used')


class CompareSession(SimpleInterface):
    """Compute overlaps for the images of a session; see :class:`CompareSegmentations`."""

    input_spec = _SessionInputSpec
    output_spec = _SessionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        tables, compared, refused = [], [], []
        for number, files in labels_of_each(inputs):
            out_table = Path(runtime.cwd) / f'dice_{number}.tsv'
            names, reasons = _compare(
                files['dseg'], inputs.references[number], out_table, files.get('parcels')
            )
            tables.append(str(out_table) if names else '')
            compared.append(names)
            refused += reasons
        self._results |= {'out_tables': tables, 'compared': compared, 'refused': refused}
        return runtime


def _compare(
    in_labels: str, references: Mapping[str, str], out_table: Path, in_parcels: str | None = None
) -> tuple[list[str], list[str]]:
    """Write a table of overlaps if any reference can be used.

    Returns
    -------
    compared, refused : list of str
        Names of the references in the table, and why others are not.
    """
    from synthseg_bids.bids.tables import write_dice_table
    from synthseg_bids.images.volume_io import InputImageError, read_label_map
    from synthseg_bids.labels import LabelSchemeError
    from synthseg_bids.measure.overlap import FieldOfViewError, compare_to_reference
    from synthseg_bids.measure.parcel_overlap import compare_parcels

    ours = read_label_map(in_labels)
    parcels = read_label_map(in_parcels) if in_parcels else None
    rows, compared, refused = [], [], []
    for name, path in references.items():
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
    if compared:
        write_dice_table(out_table, rows)
    return compared, refused
