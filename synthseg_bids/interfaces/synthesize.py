"""Synthesise training images from label maps."""

from __future__ import annotations

from dataclasses import replace
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

from .base import DeviceName
from .gpu_slots import device_for


class _InputSpec(BaseInterfaceInputSpec):
    label_maps = InputMultiPath(File(exists=True), mandatory=True, desc='training label maps')
    n_images = traits.Int(1, usedefault=True, desc='number of images')
    preset = traits.Str('synthseg-bids', usedefault=True, desc='generator settings by name')
    seed = traits.Int(0, usedefault=True, desc='seed of the random draws')
    size = traits.Int(desc='side of the cubic crop in voxels (default: the whole label map)')
    use_gpu = traits.Bool(
        False,
        usedefault=True,
        nohash=True,
        desc='take a GPU slot and compute there; otherwise on the CPU',
    )
    device = DeviceName('auto', usedefault=True, nohash=True, desc='auto, cuda or cuda:N')


class _OutputSpec(TraitedSpec):
    out_images = OutputMultiPath(File(exists=True), desc='synthetic images')
    out_labels = OutputMultiPath(File(exists=True), desc='their segmentations')


class SynthesizeImage(SimpleInterface):
    """Draw synthetic images, with their segmentations, from label maps."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.synth.label_maps import synthesize_files
        from synthseg_bids.synth.presets import PRESETS

        inputs = self.inputs
        size = (inputs.size,) * 3 if isdefined(inputs.size) else None
        pairs = synthesize_files(
            [Path(path) for path in inputs.label_maps],
            Path(runtime.cwd),
            count=inputs.n_images,
            config=replace(PRESETS[inputs.preset], size=size),
            seed=inputs.seed,
            device=device_for(inputs.use_gpu, inputs.device),
        )
        self._results['out_images'] = [str(image) for image, _ in pairs]
        self._results['out_labels'] = [str(labels) for _, labels in pairs]
        return runtime
