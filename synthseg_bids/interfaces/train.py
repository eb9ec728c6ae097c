"""Train a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype import logging
from nipype.interfaces.base import (
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from .base import GeneratorInputSpec
from .gpu_slots import device_for

if TYPE_CHECKING:
    from synthseg_bids.training.trainer import Progress, Trainer

logger = logging.getLogger('nipype.interface')


class _InputSpec(GeneratorInputSpec):
    validation_maps = InputMultiPath(File(exists=True), desc='label maps to validate on')
    sidecars = InputMultiPath(
        File(exists=True), desc='JSON files beside the label maps; part of the cache key'
    )
    downsampling = traits.Int(1, usedefault=True, desc='voxels per output voxel')
    network = traits.Dict(usedefault=True, desc='fields of NetworkConfig to change')
    training = traits.Dict(usedefault=True, desc='fields of TrainingConfig to change')


class _OutputSpec(TraitedSpec):
    out_model = File(exists=True, desc='weights; the model card has the same name and .json')
    out_curve = File(exists=True, desc='learning curve, a row for every epoch')
    out_curve_figure = File(exists=True, desc='drawing of the learning curve')


class TrainSynthSeg(SimpleInterface):
    """Train a network on images synthesised from label maps.

    A checkpoint is written to the working directory after every epoch (``epoch_steps`` in
    ``training``). A node that was killed resumes from it when run again with the same inputs, with
    an identical result on a CPU. After an exception it starts again, since Nipype empties the
    directory.
    """

    input_spec = _InputSpec
    output_spec = _OutputSpec
    # Keeps the directory of a node that was killed, if its inputs are the same.
    _can_resume = True

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.reports.figures import learning_curve
        from synthseg_bids.training.run_folder import CURVE, MODEL, resume_run, save_run

        folder = Path(runtime.cwd)
        figure = folder / 'learning_curve.png'
        trainer = self._trainer()
        curve: list[dict[str, Any]] = []
        # Nipype's file proves that the directory belongs to the same inputs. Outside of a node
        # there is no such check.
        if any(folder.glob('_0x*_unfinished.json')):
            curve = resume_run(trainer, folder) or []
            logger.info('training from step %d', trainer.step)

        def keep(trainer: Trainer, progress: Progress) -> None:
            curve.append(progress.row())
            learning_curve(curve, figure)
            save_run(trainer, folder, curve, 'trained')

        trainer.run(keep)
        self._results['out_model'] = str(folder / MODEL)
        self._results['out_curve'] = str(folder / CURVE)
        self._results['out_curve_figure'] = str(figure)
        return runtime

    def _trainer(self) -> Trainer:
        """Build the run that the inputs describe."""
        from synthseg_bids.hardware.device import resolve_device
        from synthseg_bids.synth.label_maps import load_label_map
        from synthseg_bids.synth.presets import PRESETS
        from synthseg_bids.training.trainer import Trainer, TrainingConfig

        inputs = self.inputs
        generator = replace(PRESETS[inputs.preset], downsampling=inputs.downsampling)
        if isdefined(inputs.size):
            generator = replace(generator, size=inputs.size)
        network = replace(TrainingConfig().network, **inputs.network)
        settings = {'seed': inputs.seed, **inputs.training}
        held_out = inputs.validation_maps if isdefined(inputs.validation_maps) else []
        return Trainer(
            TrainingConfig(network, generator, **settings),
            [load_label_map(Path(path), generator.size) for path in inputs.label_maps],
            [load_label_map(Path(path), generator.size) for path in held_out],
            resolve_device(device_for(inputs.use_gpu, inputs.device)),
        )
