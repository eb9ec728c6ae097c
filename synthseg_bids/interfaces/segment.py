"""Segment one image."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from synthseg_bids import __version__
from synthseg_bids.inference.options import LESIONS
from synthseg_bids.models import DEFAULT_MODEL

from .base import ConfidenceSpec, DeviceName, GpuInputSpec, VersionedInputSpec
from .gpu_slots import claim_device, device_for


class _InputSpec(VersionedInputSpec, GpuInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image of any contrast')
    model = traits.Str(DEFAULT_MODEL, usedefault=True, desc='name or weights file')
    model_sha256 = traits.Str(
        '', usedefault=True, desc='checksum of the weights file; part of the cache key'
    )
    flip = traits.Bool(True, usedefault=True, desc='average with the mirrored image')
    autocrop = traits.Bool(True, usedefault=True, desc='crop to the brain first')
    lesions = traits.Enum(
        *LESIONS, usedefault=True, desc='lesions of the white matter are a label, or part of it'
    )
    ct = traits.Bool(
        desc='CT scan, to be clipped to 0 to 80 HU (undefined: detected by its intensities)'
    )
    posteriors = traits.Bool(False, usedefault=True, desc='write posterior maps')
    labels_1mm = traits.Bool(False, usedefault=True, desc='write labels on a 1 mm grid as well')
    posteriors_1mm = traits.Bool(False, usedefault=True, desc='write posteriors on a 1 mm grid')
    devices = traits.List(
        DeviceName(), ['auto'], usedefault=True, nohash=True, desc='devices to choose from'
    )
    slots_per_device = traits.Int(1, usedefault=True, nohash=True, desc='processes per device')
    lock_dir = traits.Str(nohash=True, desc='folder of device locks (undefined: no locking)')
    num_threads = traits.Int(nohash=True, desc='CPU threads')
    gpu_fallback = traits.Bool(
        True, usedefault=True, nohash=True, desc='use the CPU if the GPU fails or is too small'
    )
    low_memory = traits.Bool(
        False, usedefault=True, nohash=True, desc='use less memory, possibly less accurate'
    )
    memory_limit = traits.Int(
        0, usedefault=True, nohash=True, desc='bytes for a forward pass; 0: all that are free'
    )


class _OutputSpec(ConfidenceSpec, TraitedSpec):
    out_labels = File(exists=True, desc='label map on the grid of the image')
    out_posteriors = File(desc='posterior maps on the grid of the image')
    out_labels_1mm = File(desc='label map on a 1 mm grid in RAS over the same field of view')
    out_posteriors_1mm = File(desc='posterior maps on that grid')
    soft_volumes_mm3 = traits.List(traits.Float, desc='soft volume of each label, by channel')
    model_sha256 = traits.Str(desc='checksum of the weights')
    ct = traits.Bool(desc='whether it was segmented as CT')
    provenance = traits.Dict(desc='provenance of the label map, for its sidecar')


class SegmentImage(SimpleInterface):
    """Segment an image; the network stays loaded in the worker process.

    ``SegmentImage.help()`` lists inputs and outputs. With ``use_gpu``, give the node
    ``n_procs=1``: Nipype takes ``n_procs`` GPU slots.
    """

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.errors import about
        from synthseg_bids.files import sha256
        from synthseg_bids.images.ct import CT_RANGE, describe_ct
        from synthseg_bids.images.volume_io import read_volume, write_label_map, write_posteriors
        from synthseg_bids.inference.options import ComputeOptions, SegmentOptions
        from synthseg_bids.inference.segmenter import cached_segmenter
        from synthseg_bids.labels import LESION

        inputs = self.inputs
        volume = read_volume(inputs.in_file)
        ct = inputs.ct if isdefined(inputs.ct) else None
        threads = inputs.num_threads if isdefined(inputs.num_threads) else None
        locked = inputs.use_gpu and inputs.lock_dir
        with (
            claim_device(inputs.devices, inputs.slots_per_device, inputs.lock_dir)
            if locked
            else nullcontext(device_for(inputs.use_gpu, inputs.devices[0]))
        ) as device:
            segmenter = cached_segmenter(
                SegmentOptions(inputs.model, inputs.flip, inputs.autocrop, inputs.lesions),
                ComputeOptions(
                    str(device),
                    threads,
                    inputs.gpu_fallback,
                    inputs.low_memory,
                    inputs.memory_limit or None,
                ),
            )
            with about(inputs.in_file):
                found = segmenter.segment(
                    volume.data,
                    volume.affine,
                    posteriors=inputs.posteriors,
                    labels_1mm=inputs.labels_1mm,
                    posteriors_1mm=inputs.posteriors_1mm,
                    ct=ct,
                )
        out = Path(runtime.cwd)
        write_label_map(out / 'dseg.nii.gz', found.labels, volume)
        if found.posteriors is not None:
            write_posteriors(out / 'probseg.nii.gz', found.posteriors, volume.affine, volume)
            self._results['out_posteriors'] = str(out / 'probseg.nii.gz')
        self._write_isotropic(found.isotropic, out)
        self._results['out_labels'] = str(out / 'dseg.nii.gz')
        self._results['soft_volumes_mm3'] = [float(v) for v in found.volumes_mm3]
        self._results['confidence'] = found.confidence.tolist()
        if found.flip_dice is not None:
            self._results['flip_dice'] = found.flip_dice.tolist()
        self._results['ct'] = found.ct
        self._results['unsure_mm3'] = found.unsure_mm3
        if found.turned:
            self._results['turned'] = astuple(found.turned)
        self._results['model_sha256'] = segmenter.card.sha256
        self._results['provenance'] = {
            'SoftwareVersion': __version__,
            'ModelName': segmenter.card.name,
            'ModelSHA256': segmenter.card.sha256,
            'FlipAveraging': inputs.flip,
            'Autocrop': inputs.autocrop,
            'CT': describe_ct(ct),
            'Lesions': inputs.lesions,
            'InputSHA256': sha256(Path(inputs.in_file)),
            'NetworkInputShape': [int(n) for n in found.grid_shape],
            'Device': found.device,
            'Seconds': round(found.seconds, 2),
        }
        if found.ct:
            self._results['provenance']['HounsfieldWindow'] = list(CT_RANGE)
        if LESION in segmenter.labels:
            self._results['provenance']['LesionLabel'] = True
        if found.fallback:
            self._results['provenance']['Fallback'] = found.fallback
        if found.peak_gpu_mb is not None:
            self._results['provenance']['PeakGPUMemoryMB'] = round(found.peak_gpu_mb)
        return runtime

    def _write_isotropic(self, maps: Any, out: Path) -> None:
        from synthseg_bids.images.volume_io import write_image, write_posteriors

        if maps is None:
            return
        if self.inputs.labels_1mm:
            path = out / 'dseg_1mm.nii.gz'
            write_image(path, maps.labels, maps.affine)
            self._results['out_labels_1mm'] = str(path)
        if maps.posteriors is not None:
            path = out / 'probseg_1mm.nii.gz'
            write_posteriors(path, maps.posteriors, maps.affine)
            self._results['out_posteriors_1mm'] = str(path)
