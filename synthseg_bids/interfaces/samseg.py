"""Run SAMSEG and FreeSurfer's SynthSeg, which have no interfaces in Nipype.

Scans are checked and rewritten by our own reader first, so that all methods refuse the same scans;
their labels are translated to ours.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    CommandLine,
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from synthseg_bids import __version__

from .base import VersionedInputSpec
from .program import ExternalCommand, ProgramInputSpec, ProgramOutputSpec


class _SamsegInputSpec(ProgramInputSpec):
    in_files = InputMultiPath(
        File(exists=True),
        mandatory=True,
        argstr='--input %s',
        desc='image, or several contrasts of one head on one grid',
    )
    out_dir = traits.Str('samseg', usedefault=True, argstr='--output %s', desc='output folder')
    pallidum_separate = traits.Bool(
        argstr='--pallidum-separate',
        desc='for T2 and FLAIR, where the pallidum differs from white matter',
    )


class _SamsegOutputSpec(ProgramOutputSpec):
    out_stats = File(exists=True, desc='volumes, in the format of FreeSurfer')


class RunSamseg(ExternalCommand, CommandLine):
    """Segment a head with SAMSEG (Puonti et al., NeuroImage 2016).

    ``command`` may be the path of ``run_samseg`` of the Python package samseg, or of FreeSurfer 7
    and later. It takes about 12 minutes on two processors, and 7 GB.
    """

    _cmd = 'run_samseg'
    input_spec = _SamsegInputSpec
    output_spec = _SamsegOutputSpec

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> Any:
        if name == 'in_files':
            return f'--input {shlex.join(value)}'
        return super()._format_arg(name, trait_spec, value)

    def _labels(self) -> Path:
        return Path(self.inputs.out_dir).absolute() / 'seg.mgz'

    def _list_outputs(self) -> dict[str, Any]:
        outputs = super()._list_outputs()
        # Older versions of FreeSurfer do not write it.
        stats = self._labels().with_name('samseg.fs.stats')
        if stats.is_file():
            outputs['out_stats'] = str(stats)
        return outputs


class _MriSynthSegInputSpec(ProgramInputSpec):
    in_file = File(exists=True, mandatory=True, argstr='--i %s', desc='image of any contrast')
    out_file = traits.Str(
        'labels.nii.gz', usedefault=True, argstr='--o %s', desc='label map to write'
    )
    fast = traits.Bool(argstr='--fast', desc='do not average with the mirrored image')
    use_cpu = traits.Bool(
        True, usedefault=True, nohash=True, argstr='--cpu', desc='do not use a GPU'
    )


class RunMriSynthSeg(ExternalCommand, CommandLine):
    """Segment a head with FreeSurfer's own SynthSeg (Billot et al., Medical Image Analysis 2023).

    ``command`` may be the path of ``mri_synthseg`` of FreeSurfer 7.3.2 and later.
    """

    _cmd = 'mri_synthseg'
    input_spec = _MriSynthSegInputSpec
    output_spec = ProgramOutputSpec

    def _labels(self) -> Path:
        return Path(self.inputs.out_file).absolute()


class _CleanInputSpec(VersionedInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image of any contrast')


class _CleanOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the same voxels, finite, as 32-bit floats with one affine')
    checksum = traits.Str(desc='SHA-256 of the image')


class CleanScan(SimpleInterface):
    """Check a scan as our own segmentation does, and write it in a form all programs can read."""

    input_spec = _CleanInputSpec
    output_spec = _CleanOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.files import sha256
        from synthseg_bids.images.volume_io import read_volume, write_image

        volume = read_volume(self.inputs.in_file)
        out_file = Path(runtime.cwd) / 'scan.nii.gz'
        write_image(out_file, volume.data, volume.affine)
        self._results['out_file'] = str(out_file)
        self._results['checksum'] = sha256(Path(self.inputs.in_file))
        return runtime


class _TranslateInputSpec(VersionedInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image that was segmented')
    in_labels = File(exists=True, mandatory=True, desc='its segmentation, in FreeSurfer labels')
    in_stats = File(exists=True, desc='soft volumes, in the format of FreeSurfer')
    checksum = traits.Str('', usedefault=True, desc='SHA-256 of the image')
    method = traits.Str('', usedefault=True, desc='name of the method, for the sidecar')
    identity = traits.Dict(usedefault=True, desc='version and options, for the sidecar')
    seconds = traits.Float(0.0, usedefault=True, nohash=True, desc='run time of the method')


class _TranslateOutputSpec(TraitedSpec):
    out_labels = File(exists=True, desc='segmentation labels on the grid of the image')
    soft_volumes_mm3 = traits.List(traits.Float, desc='soft volume of each label, by channel')
    provenance = traits.Dict(desc='provenance of the label map, for its sidecar')


class TranslateLabels(SimpleInterface):
    """Map the labels and soft volumes of another method to those of our own segmentation."""

    input_spec = _TranslateInputSpec
    output_spec = _TranslateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.external.fs_stats import fold_volumes, read_volumes
        from synthseg_bids.images.volume_io import read_label_map, read_volume, write_label_map
        from synthseg_bids.labels import fold_reference
        from synthseg_bids.measure.overlap import resample_nearest

        inputs = self.inputs
        image, theirs = read_volume(inputs.in_file), read_label_map(inputs.in_labels)
        folded = fold_reference(theirs.data, inputs.method or str(theirs.path))
        if isdefined(inputs.in_stats):
            soft = fold_volumes(read_volumes(inputs.in_stats), theirs.data, folded)
            self._results['soft_volumes_mm3'] = soft
        # Does not change a label map that is on the grid of the image.
        labels = resample_nearest(folded, theirs.affine, image.grid)
        out_labels = Path(runtime.cwd) / 'dseg.nii.gz'
        write_label_map(out_labels, labels, image)
        self._results['out_labels'] = str(out_labels)
        self._results['provenance'] = {
            'SoftwareVersion': __version__,
            'Method': inputs.method,
            **inputs.identity,
            'InputSHA256': inputs.checksum,
            'Device': 'cpu',
            'Seconds': round(inputs.seconds, 2),
        }
        return runtime
