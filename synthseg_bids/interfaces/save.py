"""Put the results of one image into the output dataset."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _InputSpec(BaseInterfaceInputSpec):
    out_dir = traits.Str(mandatory=True, desc='root of the output dataset')
    stem = traits.Str(mandatory=True, desc='relative path of the outputs, up to their suffix')
    source = traits.Str(mandatory=True, desc='BIDS URI of the image')
    reference_uris = traits.Dict(usedefault=True, desc='BIDS URIs of the references by name')
    provenance = traits.Dict(mandatory=True, desc='how the label map was made')
    in_labels = File(exists=True, mandatory=True, desc='label map')
    in_posteriors = File(exists=True, desc='posterior maps')
    in_volumes = File(exists=True, mandatory=True, desc='table of volumes')
    in_overlaps = File(exists=True, desc='table of overlaps')
    compared = traits.List(traits.Str, usedefault=True, desc='references in that table')
    refused = traits.List(traits.Str, usedefault=True, desc='why others are not')


class _OutputSpec(TraitedSpec):
    out_files = OutputMultiPath(File(exists=True), desc='what was written')
    notes = traits.List(traits.Str, desc='what the user should know')
    provenance = traits.Dict(desc='as it came in')


class SaveDerivatives(SimpleInterface):
    """Write label map, tables and sidecars of one image under their BIDS names."""

    input_spec = _InputSpec
    output_spec = _OutputSpec
    # The results may be cached while the output folder is new or was cleaned.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.save import save_image_outputs

        inputs = self.inputs
        files = {
            'probseg': inputs.in_posteriors,
            'morph': inputs.in_volumes,
            'dice': inputs.in_overlaps,
            'dseg': inputs.in_labels,
        }
        self._results['out_files'] = save_image_outputs(
            inputs.out_dir,
            inputs.stem,
            {kind: path for kind, path in files.items() if isdefined(path)},
            inputs.source,
            [inputs.reference_uris[name] for name in inputs.compared],
            inputs.provenance,
        )
        self._results['notes'] = inputs.refused
        self._results['provenance'] = inputs.provenance
        return runtime
