"""What all interfaces that compute something have in common."""

from __future__ import annotations

from nipype.interfaces.base import BaseInterfaceInputSpec, traits

from synthseg_bids import __version__


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
