"""Settings of a segmentation: what decides its result, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..models.registry import DEFAULT_MODEL


@dataclass(frozen=True)
class SegmentOptions:
    """What decides the result, beside the scan.

    Attributes
    ----------
    model : str
        Name of a shipped model, or a ``.safetensors`` file.
    flip : bool
        Average with the segmentation of the mirrored scan: better, and the network runs twice.
    autocrop : bool
        Look for the brain first, where the network was trained on crops; otherwise segment all
        of the scan.
    """

    model: str = DEFAULT_MODEL
    flip: bool = True
    autocrop: bool = True

    def __post_init__(self) -> None:
        # Other processes may work in another folder, and other machines may have other ones.
        path = Path(self.model)
        object.__setattr__(self, 'model', str(path.absolute() if path.is_file() else self.model))


@dataclass(frozen=True)
class ComputeOptions:
    """Where it is computed, and with how much.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int, optional
        CPU threads (default: as the process is set up).
    gpu_fallback : bool
        Go on on the CPU if a GPU fails or its memory is too small.
    low_memory : bool
        Keep forward passes below a gigabyte, if need be at the cost of accuracy.
    memory_limit : int, optional
        Bytes that a forward pass may plan with, instead of all that are free.
    """

    device: str = 'auto'
    threads: int | None = None
    gpu_fallback: bool = True
    low_memory: bool = False
    memory_limit: int | None = None
