"""Save the segmentations of all visits of a participant in the output dataset."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _InputSpec(BaseInterfaceInputSpec):
    out_dir = traits.Str(mandatory=True, desc='root of the output dataset')
    stems = traits.List(traits.Str, mandatory=True, desc='relative paths of the outputs')
    sources = traits.List(traits.Str, mandatory=True, desc='BIDS URIs of the images')
    provenance = traits.List(
        traits.Dict, mandatory=True, desc='for each image, fields of the sidecar of its label map'
    )
    overlaps = traits.List(traits.Float, mandatory=True, desc='overlap of each with the others')
    followed = traits.List(
        traits.Bool, mandatory=True, desc='whether changes of each are followed by intensities'
    )
    in_labels = InputMultiPath(File(exists=True), mandatory=True, desc='label maps')
    in_parcels = InputMultiPath(File(exists=True), desc='label maps with parcels of the cortex')
    parcels_sha256 = traits.Str(
        '', usedefault=True, desc='checksum of the weights that named the parcels'
    )
    in_volumes = InputMultiPath(File(exists=True), mandatory=True, desc='tables of volumes')
    in_quality = InputMultiPath(File(exists=True), mandatory=True, desc='tables of quality')
    in_figures = traits.List(
        traits.Dict, usedefault=True, desc='pictures of each image by kind; see PlotTogether'
    )
    in_transforms = InputMultiPath(
        File(exists=True), mandatory=True, desc='transforms to the space halfway'
    )


class _OutputSpec(TraitedSpec):
    out_files = OutputMultiPath(File(exists=True), desc='files that were written')


class SaveVisits(SimpleInterface):
    """Write label map, volumes, quality and transform of each image under their BIDS names."""

    input_spec = _InputSpec
    output_spec = _OutputSpec
    # Results may be cached although the output folder is new or was cleaned.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.longitudinal import save_visit
        from synthseg_bids.bids.save import PARCEL_MODEL_FIELD

        inputs = self.inputs
        self._results['out_files'] = []
        kinds = {
            'dseg': inputs.in_labels,
            'morph': inputs.in_volumes,
            'qc': inputs.in_quality,
            'xfm': inputs.in_transforms,
        }
        network: dict[str, str] = {}
        if isdefined(inputs.in_parcels):
            kinds['parcels'] = inputs.in_parcels
            network[PARCEL_MODEL_FIELD] = inputs.parcels_sha256
        for number, stem in enumerate(inputs.stems):
            # The space halfway depends on all visits.
            others = [uri for uri in inputs.sources if uri != inputs.sources[number]]
            self._results['out_files'] += save_visit(
                inputs.out_dir,
                stem,
                {kind: files[number] for kind, files in kinds.items()},
                [inputs.sources[number], *others],
                {
                    **inputs.provenance[number],
                    **network,
                    'Overlap': round(inputs.overlaps[number], 4),
                    'ChangesFollowedByIntensities': inputs.followed[number],
                },
                inputs.in_figures[number] if inputs.in_figures else None,
            )
        return runtime
