"""Train a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from .base import DeviceName
from .gpu_slots import device_for


class _InputSpec(BaseInterfaceInputSpec):
    label_maps = InputMultiPath(File(exists=True), mandatory=True, desc='training label maps')
    validation_maps = InputMultiPath(File(exists=True), desc='label maps to validate on')
    preset = traits.Str('synthseg-bids', usedefault=True, desc='generator settings by name')
    size = traits.Tuple(traits.Int, traits.Int, traits.Int, desc='crop in label-map voxels')
    downsampling = traits.Int(1, usedefault=True, desc='voxels per output voxel')
    network = traits.Dict(usedefault=True, desc='fields of NetworkConfig to change')
    training = traits.Dict(usedefault=True, desc='fields of TrainingConfig to change')
    use_gpu = traits.Bool(
        False,
        usedefault=True,
        nohash=True,
        desc='take a GPU slot and compute there; otherwise on the CPU',
    )
    device = DeviceName('auto', usedefault=True, nohash=True, desc='auto, cuda or cuda:N')


class _OutputSpec(TraitedSpec):
    out_model = File(exists=True, desc='weights; the model card has the same name and .json')


class TrainSynthSeg(SimpleInterface):
    """Train a network on images synthesised from label maps."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.hardware.device import resolve_device
        from synthseg_bids.models.card import save_model
        from synthseg_bids.synth.label_maps import load_label_map
        from synthseg_bids.synth.presets import PRESETS
        from synthseg_bids.training.trainer import Trainer, TrainingConfig

        inputs = self.inputs
        generator = replace(PRESETS[inputs.preset], downsampling=inputs.downsampling)
        if isdefined(inputs.size):
            generator = replace(generator, size=inputs.size)
        network = replace(TrainingConfig().network, **inputs.network)
        config = TrainingConfig(network, generator, **inputs.training)
        held_out = inputs.validation_maps if isdefined(inputs.validation_maps) else []
        trainer = Trainer(
            config,
            [load_label_map(Path(path), generator.size) for path in inputs.label_maps],
            [load_label_map(Path(path), generator.size) for path in held_out],
            resolve_device(device_for(inputs.use_gpu, inputs.device)),
        )
        curve: list[dict[str, Any]] = []
        trainer.run(lambda _, progress: curve.append(progress.row()))
        out_model = Path(runtime.cwd) / 'model.safetensors'
        save_model(out_model, trainer.average, trainer.card('trained', curve))
        self._results['out_model'] = str(out_model)
        return runtime
