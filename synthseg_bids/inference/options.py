"""Settings of a segmentation: those that change its result, and those of the computation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..models import DEFAULT_MODEL

#: Share of the mean of all visits in the posteriors of each; see :mod:`.longitudinal`. As large as
#: leaves 0.85 of a true change, on generated visits of a label map of the training.
TEMPLATE_WEIGHT = 0.15
#: Standard deviations of what intensities find between visits: strain, and the relative change of
#: volume that a structure has beside it (:mod:`.deformation_prior`). On generated
#: visits of seven label maps of the training, slope over spread is largest with this strain.
STRAIN, VOLUME_CHANGE = 0.05, 0.05
#: What becomes of lesions of the white matter.
LESIONS = ('label', 'fold')


@dataclass(frozen=True)
class SegmentOptions:
    """Settings that change the result.

    Attributes
    ----------
    model : str
        Name of a shipped model, or a ``.safetensors`` file.
    flip : bool
        Average with the segmentation of the mirrored scan: more accurate, but two passes.
    autocrop : bool
        Crop to the brain, if the network was trained on crops; otherwise segment the whole scan.
    lesions : {'label', 'fold'}
        Whether lesions of the white matter are a label, if the network has it, or part of what
        they lie in.
    parcels : bool
        Find the parcels of the cortex, too (:mod:`.parcels`).
    """

    model: str = DEFAULT_MODEL
    flip: bool = True
    autocrop: bool = True
    lesions: str = 'label'
    parcels: bool = False

    def __post_init__(self) -> None:
        if self.lesions not in LESIONS:
            raise ValueError(f'lesions {self.lesions!r}: ask for one of {LESIONS}')
        # Absolute, since other processes may work in another folder.
        path = Path(self.model)
        object.__setattr__(self, 'model', str(path.absolute() if path.is_file() else self.model))


@dataclass(frozen=True)
class ComputeOptions:
    """Settings of the computation.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int, optional
        CPU threads (default: the setting of the process).
    gpu_fallback : bool
        Continue on the CPU if a GPU fails or its memory is too small.
    low_memory : bool
        Keep forward passes below a gigabyte, if necessary with less accuracy.
    memory_limit : int, optional
        Bytes that a forward pass may use, instead of all that are free.
    """

    device: str = 'auto'
    threads: int | None = None
    gpu_fallback: bool = True
    low_memory: bool = False
    memory_limit: int | None = None
