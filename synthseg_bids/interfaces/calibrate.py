"""Calibrate a network."""

from __future__ import annotations

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

from .base import DeviceInputSpec
from .gpu_slots import device_for


class _InputSpec(DeviceInputSpec):
    in_model = File(exists=True, mandatory=True, desc='weights file')
    fit_maps = InputMultiPath(
        File(exists=True), mandatory=True, desc='label maps to fit temperature and biases on'
    )
    check_maps = InputMultiPath(
        File(exists=True), mandatory=True, desc='other label maps, for the calibration error'
    )
    intensity_weight = traits.Range(
        0.0, 1.0, desc='exponent of the likelihood of intensities in the refinement'
    )
    n_scans = traits.Int(2, usedefault=True, desc='scans per label map and preset')


class _OutputSpec(TraitedSpec):
    out_model = File(exists=True, desc='weights; the model card has the same name and .json')
    out_sha256 = traits.Str(desc='checksum of the weights')
    temperature = traits.Float(desc='divisor of the logits')
    error_before = traits.Float(desc='expected calibration error before')
    error = traits.Float(desc='expected calibration error after')


class CalibrateModel(SimpleInterface):
    """Calibrate the posteriors of a network by temperature and biases."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.files import sha256
        from synthseg_bids.hardware.device import resolve_device
        from synthseg_bids.training.calibration import calibrate_model

        inputs = self.inputs
        out = Path(runtime.cwd) / 'calibrated.safetensors'
        facts = calibrate_model(
            inputs.in_model,
            [Path(path) for path in inputs.fit_maps],
            [Path(path) for path in inputs.check_maps],
            out,
            inputs.n_scans,
            resolve_device(device_for(inputs.use_gpu, inputs.device)),
            inputs.intensity_weight if isdefined(inputs.intensity_weight) else None,
        )
        self._results['out_model'] = str(out)
        self._results['out_sha256'] = sha256(out)
        self._results['temperature'] = facts['temperature']
        self._results['error_before'] = facts['calibration_error_before']
        self._results['error'] = facts['calibration_error']
        return runtime
