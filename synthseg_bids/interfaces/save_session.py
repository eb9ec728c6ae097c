"""Save the segmentation of a session in the output dataset."""

from __future__ import annotations

from pathlib import Path
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
    session = traits.Any(mandatory=True, desc='SessionRecord of the images')
    used = traits.List(traits.Int, mandatory=True, desc='numbers of the images combined')
    refused = traits.List(traits.Str, usedefault=True, desc='why others were not')
    overlaps = traits.List(traits.Float, mandatory=True, desc='overlap of each with the others')
    residuals_mm = traits.List(traits.Float, mandatory=True, desc='how far their centroids lie')
    in_common = File(exists=True, mandatory=True, desc='label map in the space halfway')
    in_common_parcels = File(exists=True, desc='the same with parcels of the cortex')
    in_parcels = InputMultiPath(File(exists=True), desc='label maps with parcels of the cortex')
    parcels_sha256 = traits.Str(
        '', usedefault=True, desc='checksum of the weights that named the parcels'
    )
    in_labels = InputMultiPath(File(exists=True), mandatory=True, desc='label maps')
    in_volumes = InputMultiPath(File(exists=True), mandatory=True, desc='tables of volumes')
    in_quality = InputMultiPath(File(exists=True), mandatory=True, desc='tables of quality')
    in_figures = traits.List(
        traits.Dict, usedefault=True, desc='pictures of each image by kind; see PlotTogether'
    )
    figure_notes = traits.List(traits.Str, usedefault=True, desc='why there are none of some')
    in_transforms = InputMultiPath(
        File(exists=True), mandatory=True, desc='transforms to the space halfway'
    )
    in_pairs = InputMultiPath(File(exists=True), mandatory=True, desc='transforms between two')
    in_overlaps = traits.List(
        traits.Str,
        usedefault=True,
        desc='tables of overlaps with references, or empty',
    )
    compared = traits.List(
        traits.List(traits.Str), usedefault=True, desc='references in each of these tables'
    )
    not_compared = traits.List(traits.Str, usedefault=True, desc='why others are in none')


class _OutputSpec(TraitedSpec):
    out_files = OutputMultiPath(File(exists=True), desc='files that were written')
    notes = traits.List(traits.Str, desc='messages for the user')
    provenance = traits.Dict(desc='how the session was segmented')


class SaveSession(SimpleInterface):
    """Write label maps, volumes, quality and transforms of a session under their BIDS names."""

    input_spec = _InputSpec
    output_spec = _OutputSpec
    # Results may be cached although the output folder is new or was cleaned.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.sessions import save_session

        inputs = self.inputs
        files = {
            'common': inputs.in_common,
            'dseg': inputs.in_labels,
            'morph': inputs.in_volumes,
            'qc': inputs.in_quality,
            'xfm': inputs.in_transforms,
            'pairs': inputs.in_pairs,
            'dice': inputs.in_overlaps,
        }
        if isdefined(inputs.in_parcels):
            files['parcels'] = inputs.in_parcels
            files['common_parcels'] = inputs.in_common_parcels
        self._results['out_files'] = save_session(
            Path(inputs.out_dir),
            inputs.session,
            inputs.used,
            files,
            inputs.overlaps,
            inputs.residuals_mm,
            inputs.refused,
            inputs.compared,
            inputs.in_figures,
            inputs.parcels_sha256,
        )
        self._results['notes'] = [*inputs.refused, *inputs.not_compared, *inputs.figure_notes]
        self._results['provenance'] = {'Device': 'cpu'}
        return runtime
