"""Common input specifications of the interfaces."""

from __future__ import annotations

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    traits,
)
from nipype.utils import filemanip

from synthseg_bids import __version__

# Nipype deletes files that no other node needs, and copies files one by one. Weights and their
# model card must stay together, as the two files of an Analyze image.
filemanip.related_filetype_sets.append(('.safetensors', '.json'))


class DeviceName(traits.BaseStr):  # type: ignore[misc]
    """The name of a device, given as text or as a ``torch.device``."""

    def validate(self, obj: object, name: str, value: object) -> str:
        """Return the name; importing PyTorch to check the type would cost every node a second."""
        is_device = type(value).__module__ == 'torch' and type(value).__name__ == 'device'
        checked: str = super().validate(obj, name, str(value) if is_device else value)
        return checked


class VersionedInputSpec(BaseInterfaceInputSpec):
    """Inputs that invalidate results cached by another version of this software."""

    software_version = traits.Str(
        __version__, usedefault=True, desc='version of synthseg-bids; part of the cache key'
    )


class GpuInputSpec(BaseInterfaceInputSpec):
    """Inputs of nodes that can use a GPU."""

    # Nipype's MultiProc recognises GPU nodes by this name.
    use_gpu = traits.Bool(
        False,
        usedefault=True,
        nohash=True,
        desc='compute on a GPU and take a GPU slot; otherwise on the CPU',
    )


class DeviceInputSpec(GpuInputSpec):
    """Inputs of nodes that use one device."""

    device = DeviceName('auto', usedefault=True, nohash=True, desc='auto, cuda or cuda:N')


class GeneratorInputSpec(DeviceInputSpec):
    """Inputs of nodes that generate synthetic scans from label maps."""

    label_maps = InputMultiPath(File(exists=True), mandatory=True, desc='training label maps')
    preset = traits.Str('synthseg-bids', usedefault=True, desc='generator settings by name')
    seed = traits.Int(0, usedefault=True, desc='seed of all random numbers')
    size = traits.Tuple(
        traits.Int, traits.Int, traits.Int, desc='crop in label-map voxels (default: the preset)'
    )
