"""Synthesise training images from label maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    File,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from .base import GeneratorInputSpec
from .gpu_slots import device_for


class _InputSpec(GeneratorInputSpec):
    n_images = traits.Int(1, usedefault=True, desc='number of images')


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
        config = PRESETS[inputs.preset]
        if isdefined(inputs.size):
            config = replace(config, size=inputs.size)
        pairs = synthesize_files(
            [Path(path) for path in inputs.label_maps],
            Path(runtime.cwd),
            count=inputs.n_images,
            config=config,
            seed=inputs.seed,
            device=device_for(inputs.use_gpu, inputs.device),
        )
        self._results['out_images'] = [str(image) for image, _ in pairs]
        self._results['out_labels'] = [str(labels) for _, labels in pairs]
        return runtime
