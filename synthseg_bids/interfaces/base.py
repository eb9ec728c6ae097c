"""What all interfaces that compute something have in common."""

from __future__ import annotations

from nipype.interfaces.base import BaseInterfaceInputSpec, File, InputMultiPath, traits
from nipype.utils import filemanip

from synthseg_bids import __version__

# Nipype deletes what no other node takes, and copies files one by one. Weights without the card
# beside them are useless, so that the two count as one file, as the halves of Analyze images do.
filemanip.related_filetype_sets.append(('.safetensors', '.json'))


class DeviceName(traits.BaseStr):  # type: ignore[misc]
    """The name of a device, given as text or as a ``torch.device``."""

    def validate(self, obj: object, name: str, value: object) -> str:
        """Return the name; importing PyTorch for it would cost every node a second."""
        is_device = type(value).__module__ == 'torch' and type(value).__name__ == 'device'
        checked: str = super().validate(obj, name, str(value) if is_device else value)
        return checked


class VersionedInputSpec(BaseInterfaceInputSpec):
    """Make Nipype compute anew what another version of this software has left in its cache."""

    software_version = traits.Str(
        __version__, usedefault=True, desc='version of synthseg-bids; part of the cache key'
    )


class GpuInputSpec(BaseInterfaceInputSpec):
    """What can be computed on a GPU."""

    # Nipype's MultiProc recognises a GPU node by this very name.
    use_gpu = traits.Bool(
        False,
        usedefault=True,
        nohash=True,
        desc='take a GPU slot and compute there; otherwise on the CPU',
    )


class DeviceInputSpec(GpuInputSpec):
    """What is computed on one device."""

    device = DeviceName('auto', usedefault=True, nohash=True, desc='auto, cuda or cuda:N')


class GeneratorInputSpec(DeviceInputSpec):
    """What draws synthetic scans from label maps."""

    label_maps = InputMultiPath(File(exists=True), mandatory=True, desc='training label maps')
    preset = traits.Str('synthseg-bids', usedefault=True, desc='generator settings by name')
    seed = traits.Int(0, usedefault=True, desc='seed of all random numbers')
    size = traits.Tuple(
        traits.Int, traits.Int, traits.Int, desc='crop in label-map voxels (default: the preset)'
    )
