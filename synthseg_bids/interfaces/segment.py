"""Segment one image."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from synthseg_bids import __version__
from synthseg_bids.inference.options import LESIONS
from synthseg_bids.models import DEFAULT_MODEL

from .base import DeviceName, GpuInputSpec, VersionedInputSpec
from .gpu_slots import claim_device, device_for
from .network import parcels_sha256_of
from .priors import prior_file


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
    parcels = traits.Bool(
        False, usedefault=True, desc='write label maps with parcels of the cortex as well'
    )
    parcels_sha256 = traits.Str(
        '', usedefault=True, desc='checksum of the weights for parcels; part of the cache key'
    )
    masks = traits.Bool(False, usedefault=True, desc='write brain mask and intracranial mask')
    tissue_maps = traits.Bool(
        False, usedefault=True, desc='write three tissues: a label map and their probabilities'
    )
    five_tissue = traits.Bool(
        False, usedefault=True, desc='write the five-tissue-type image of MRtrix'
    )
    priors_dir = traits.Str(
        nohash=True,
        desc='folder in which to keep the posteriors of the network alone, for '
        'segmentations of several images (undefined: not kept)',
    )
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


class _OutputSpec(TraitedSpec):
    out_labels = File(exists=True, desc='label map on the grid of the image')
    out_posteriors = File(desc='posterior maps on the grid of the image')
    out_labels_1mm = File(desc='label map on a 1 mm grid in RAS over the same field of view')
    out_posteriors_1mm = File(desc='posterior maps on that grid')
    out_parcels = File(
        desc='label map with parcels in the place of the cortex, on the grid of the image'
    )
    out_parcels_1mm = File(desc='the same on the 1 mm grid')
    out_brain_mask = File(desc='brain and ventricles, with the fluid in sulci and cisterns')
    out_intracranial_mask = File(desc='brain and all cerebrospinal fluid around it')
    out_tissues = File(desc='1 grey matter, 2 white matter, 3 cerebrospinal fluid')
    out_gm = File(desc='probability of grey matter')
    out_wm = File(desc='probability of white matter, lesions included')
    out_csf = File(desc='probability of cerebrospinal fluid, ventricles included')
    out_five_tissue = File(
        desc='cortical and subcortical grey matter, white matter, '
        'cerebrospinal fluid and pathological tissue, 4D'
    )
    soft_volumes_mm3 = traits.List(traits.Float, desc='soft volume of each label, by channel')
    network_report = traits.Dict(desc='fields of a NetworkReport: confidence of the network')
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
        from synthseg_bids.images.volume_io import read_volume, write_label_map, write_posteriors

        volume = read_volume(self.inputs.in_file)
        found, card, labels = self._segment(volume)
        out = Path(runtime.cwd)
        write_label_map(out / 'dseg.nii.gz', found.labels, volume)
        if found.posteriors is not None:
            write_posteriors(out / 'probseg.nii.gz', found.posteriors, volume.affine, volume)
            self._results['out_posteriors'] = str(out / 'probseg.nii.gz')
        if found.parcels is not None:
            write_label_map(out / 'parcels.nii.gz', found.parcels, volume)
            self._results['out_parcels'] = str(out / 'parcels.nii.gz')
        self._write_isotropic(found.isotropic, out)
        self._write_tissues(found, volume, out)
        self._results['out_labels'] = str(out / 'dseg.nii.gz')
        self._results['soft_volumes_mm3'] = [float(v) for v in found.volumes_mm3]
        self._results['network_report'] = asdict(found.report)
        self._results['ct'] = found.report.ct
        self._results['provenance'] = self._provenance(found, card, labels)
        return runtime

    def _ct(self) -> bool | None:
        ct: bool | None = self.inputs.ct if isdefined(self.inputs.ct) else None
        return ct

    def _segment(self, volume: Any) -> tuple[Any, Any, tuple[int, ...]]:
        """Return the segmentation, the card of the network and the labels; keep its posteriors."""
        from synthseg_bids.errors import about
        from synthseg_bids.files import write_whole
        from synthseg_bids.inference.options import ComputeOptions, SegmentOptions
        from synthseg_bids.inference.segmenter import cached_segmenter

        inputs = self.inputs
        threads = inputs.num_threads if isdefined(inputs.num_threads) else None
        locked = inputs.use_gpu and inputs.lock_dir
        with (
            claim_device(inputs.devices, inputs.slots_per_device, inputs.lock_dir)
            if locked
            else nullcontext(device_for(inputs.use_gpu, inputs.devices[0]))
        ) as device:
            segmenter = cached_segmenter(
                SegmentOptions(
                    inputs.model, inputs.flip, inputs.autocrop, inputs.lesions, inputs.parcels
                ),
                ComputeOptions(
                    str(device),
                    threads,
                    inputs.gpu_fallback,
                    inputs.low_memory,
                    inputs.memory_limit or None,
                ),
            )
            keep = isdefined(inputs.priors_dir)
            with about(inputs.in_file):
                found = segmenter.segment(
                    volume.data,
                    volume.affine,
                    posteriors=inputs.posteriors,
                    labels_1mm=inputs.labels_1mm,
                    posteriors_1mm=inputs.posteriors_1mm,
                    ct=self._ct(),
                    tissues=inputs.tissue_maps or inputs.five_tissue,
                    prior=keep,
                )
        if keep and found.prior is not None:
            kept = prior_file(inputs.priors_dir, inputs.in_file, inputs, self._ct())
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, found.prior.save)
        return found, segmenter.card, segmenter.labels

    def _provenance(self, found: Any, card: Any, labels: tuple[int, ...]) -> dict[str, Any]:
        from synthseg_bids.bids.save import PARCEL_MODEL_FIELD
        from synthseg_bids.files import sha256
        from synthseg_bids.images.ct import CT_RANGE, describe_ct
        from synthseg_bids.labels import LESION

        inputs = self.inputs
        provenance = {
            'SoftwareVersion': __version__,
            'ModelName': card.name,
            'ModelSHA256': card.sha256,
            'FlipAveraging': inputs.flip,
            'Autocrop': inputs.autocrop,
            'CT': describe_ct(self._ct()),
            'Lesions': inputs.lesions,
            'InputSHA256': sha256(Path(inputs.in_file)),
            'NetworkInputShape': [int(n) for n in found.grid_shape],
            'Device': found.device,
            'Seconds': round(found.seconds, 2),
        }
        if found.report.ct:
            provenance['HounsfieldWindow'] = list(CT_RANGE)
        if inputs.parcels:
            provenance[PARCEL_MODEL_FIELD] = parcels_sha256_of(inputs)
        if LESION in labels:
            provenance['LesionLabel'] = True
        if found.fallback:
            provenance['Fallback'] = found.fallback
        if found.peak_gpu_mb is not None:
            provenance['PeakGPUMemoryMB'] = round(found.peak_gpu_mb)
        return provenance

    def _write_tissues(self, found: Any, volume: Any, out: Path) -> None:
        from synthseg_bids.images.geometry import spacing_mm
        from synthseg_bids.images.volume_io import write_label_map, write_maps, write_posteriors
        from synthseg_bids.measure import tissues

        inputs, labels, parts = self.inputs, found.labels, found.tissues
        label_maps = {}
        if inputs.masks:
            label_maps['brain_mask'] = tissues.brain_mask(labels, spacing_mm(volume.affine))
            label_maps['intracranial_mask'] = tissues.intracranial_mask(labels)
        if inputs.tissue_maps:
            label_maps['tissues'] = tissues.three_tissues(labels)
            probabilities = tissues.three_probabilities(parts)
            for name, one in zip(('gm', 'wm', 'csf'), probabilities, strict=True):
                path = self._results[f'out_{name}'] = str(out / f'{name}.nii.gz')
                write_posteriors(path, one, volume.affine, volume)
        for name, values in label_maps.items():
            path = self._results[f'out_{name}'] = str(out / f'{name}.nii.gz')
            write_label_map(path, values, volume, 'u1')
        if inputs.five_tissue:
            path = self._results['out_five_tissue'] = str(out / 'five_tissue.nii.gz')
            write_maps(path, tissues.five_tissues(parts, labels), volume)

    def _write_isotropic(self, maps: Any, out: Path) -> None:
        from synthseg_bids.images.volume_io import write_image, write_posteriors

        if maps is None:
            return
        if self.inputs.labels_1mm:
            path = out / 'dseg_1mm.nii.gz'
            write_image(path, maps.labels, maps.affine)
            self._results['out_labels_1mm'] = str(path)
        if maps.parcels is not None:
            path = out / 'parcels_1mm.nii.gz'
            write_image(path, maps.parcels, maps.affine)
            self._results['out_parcels_1mm'] = str(path)
        if maps.posteriors is not None:
            path = out / 'probseg_1mm.nii.gz'
            write_posteriors(path, maps.posteriors, maps.affine)
            self._results['out_posteriors_1mm'] = str(path)
