"""Save the results of one image in the output dataset."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    Undefined,
    isdefined,
    traits,
)

#: Provenance for the status table only, not for sidecars.
_OF_THE_RUN = ('Seconds', 'PeakGPUMemoryMB')


class _InputSpec(BaseInterfaceInputSpec):
    out_dir = traits.Str(mandatory=True, desc='root of the output dataset')
    stem = traits.Str(mandatory=True, desc='relative path of the outputs, up to their suffix')
    source = traits.Str(mandatory=True, desc='BIDS URI of the image')
    references = traits.Dict(usedefault=True, desc='reference label maps by name')
    reference_uris = traits.Dict(usedefault=True, desc='their BIDS URIs by name')
    output_grid = traits.Enum(
        'native', '1mm', 'both', usedefault=True, desc='grid of the label maps to save'
    )
    provenance = traits.Dict(mandatory=True, desc='provenance of the label map')
    in_labels = File(exists=True, mandatory=True, desc='label map')
    in_labels_1mm = File(exists=True, desc='label map on the 1 mm grid')
    in_parcels = File(exists=True, desc='label map with parcels of the cortex')
    in_parcels_1mm = File(exists=True, desc='the same on the 1 mm grid')
    in_posteriors = File(exists=True, desc='posterior maps')
    in_posteriors_1mm = File(exists=True, desc='posterior maps on the 1 mm grid')
    in_brain_mask = File(exists=True, desc='brain mask')
    in_intracranial_mask = File(exists=True, desc='intracranial mask')
    in_tissues = File(exists=True, desc='label map of three tissues')
    in_gm = File(exists=True, desc='probability of grey matter')
    in_wm = File(exists=True, desc='probability of white matter')
    in_csf = File(exists=True, desc='probability of cerebrospinal fluid')
    in_five_tissue = File(exists=True, desc='five-tissue-type image')
    in_volumes = File(exists=True, mandatory=True, desc='table of volumes')
    in_stats = File(exists=True, desc="table of volumes in the format of FreeSurfer's aseg.stats")
    in_parcel_stats = File(exists=True, desc='the same of the parcels')
    in_quality = File(exists=True, desc='table of quality measures')
    quality_notes = traits.List(traits.Str, usedefault=True, desc='messages about quality')
    in_scan_figure = File(exists=True, desc='slices of the image')
    in_label_figure = File(exists=True, desc='the same slices of the label map')
    in_parcel_figure = File(exists=True, desc='the same slices of the parcels')
    figure_notes = traits.List(traits.Str, usedefault=True, desc='why there is no figure')
    in_overlaps = File(exists=True, desc='table of overlaps')
    compared = traits.List(traits.Str, usedefault=True, desc='references in that table')
    refused = traits.List(traits.Str, usedefault=True, desc='why others are not in it')


class _OutputSpec(TraitedSpec):
    out_files = OutputMultiPath(File(exists=True), desc='files that were written')
    notes = traits.List(traits.Str, desc='messages for the user')
    provenance = traits.Dict(desc='same as the input')


class SaveDerivatives(SimpleInterface):
    """Write label map, tables and sidecars of one image under their BIDS names."""

    input_spec = _InputSpec
    output_spec = _OutputSpec
    # Results may be cached although the output folder is new or was cleaned.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.names import TISSUE_KINDS
        from synthseg_bids.bids.save import save_image_outputs
        from synthseg_bids.files import sha256

        inputs = self.inputs
        files = {
            'probseg': inputs.in_posteriors,
            'probseg1mm': inputs.in_posteriors_1mm,
            'morph': inputs.in_volumes,
            'aseg': inputs.in_stats,
            'aparc': inputs.in_parcel_stats,
            'qc': inputs.in_quality,
            'dice': inputs.in_overlaps,
            'dseg': inputs.in_labels if inputs.output_grid != '1mm' else Undefined,
            'dseg1mm': inputs.in_labels_1mm,
            'parcels': inputs.in_parcels if inputs.output_grid != '1mm' else Undefined,
            'parcels1mm': inputs.in_parcels_1mm,
            **{kind: getattr(inputs, f'in_{kind}') for kind in chain(*TISSUE_KINDS.values())},
        }
        # Sidecars must not depend on the run time.
        fields = {key: value for key, value in inputs.provenance.items() if key not in _OF_THE_RUN}
        figures = {
            'scan': inputs.in_scan_figure,
            'dseg': inputs.in_label_figure,
            'parcels': inputs.in_parcel_figure,
        }
        self._results['out_files'] = save_image_outputs(
            inputs.out_dir,
            inputs.stem,
            {kind: path for kind, path in files.items() if isdefined(path)},
            inputs.source,
            {
                uri: sha256(Path(inputs.references[name]))
                for name, uri in inputs.reference_uris.items()
            },
            [inputs.reference_uris[name] for name in inputs.compared],
            fields,
            {kind: path for kind, path in figures.items() if isdefined(path)},
        )
        fallback = inputs.provenance.get('Fallback')
        self._results['notes'] = [
            *([fallback] if fallback else []),
            *inputs.quality_notes,
            *inputs.refused,
            *inputs.figure_notes,
        ]
        self._results['provenance'] = inputs.provenance
        return runtime
