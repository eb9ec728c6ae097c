"""What all interfaces that compute something have in common."""

from __future__ import annotations

from nipype.interfaces.base import BaseInterfaceInputSpec, traits

from synthseg_bids import __version__


class VersionedInputSpec(BaseInterfaceInputSpec):
    """Make Nipype compute anew what another version of this software has left in its cache."""

    software_version = traits.Str(
        __version__, usedefault=True, desc='version of synthseg-bids; part of the cache key'
    )
