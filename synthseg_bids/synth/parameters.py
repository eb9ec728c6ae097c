"""Settings of the generative model, and the random parameters of one synthetic scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .artefacts import ArtefactConfig, Artefacts, draw_artefacts
from .deform import Deformation, DeformationConfig, draw_deformation, moved
from .intensity import Intensities, IntensityConfig, draw_intensities
from .lesions import LesionConfig, Lesions, draw_lesions
from .myelination import Myelination, MyelinationConfig, draw_myelination
from .resolution import (
    Noise,
    NoiseConfig,
    Resolution,
    ResolutionConfig,
    draw_noise,
    draw_resolution,
)
from .sampling import uniform
from .texture import Texture, TextureConfig, draw_texture
from .ventricles import VentricleConfig, draw_growth


@dataclass(frozen=True)
class GeneratorConfig:
    """Settings of the generative model.

    Attributes
    ----------
    size : tuple of int or None
        Size of the crop in voxels of the label map (None: the whole map).
    crop_jitter : float or None
        The crop is centred on the brain after the affine deformation, displaced by up to this
        many voxels along each axis and kept inside the map's grid; None crops anywhere in the map.
    downsampling : int
        Width of output voxels in label-map voxels, whose intensities are averaged, so that
        boundaries show partial volume.
    ventricles : VentricleConfig or None
        Resizing of the ventricles, if any.
    deformation, intensity : DeformationConfig, IntensityConfig
    myelination : MyelinationConfig
        Where the white matter of children is myelinated.
    blur : tuple of float
        Range of the standard deviation of the blur after drawing intensities, in output voxels.
    resolution : ResolutionConfig or None
        Random acquisition resolution, if any.
    noise : NoiseConfig or None
        Noise of the acquired voxels, if any.
    lesions : LesionConfig or None
        Lesions of the white matter, if any.
    lesion_label : bool
        Whether lesions are a label of the target; otherwise they are white matter.
    texture : TextureConfig or None
        Textures, if any.
    artefacts : ArtefactConfig or None
        Ghosts and truncated fields of view, if any.
    skull_strip_probability : float
        Probability that all extra-cerebral labels become background.
    no_csf_probability : float
        Probability that the CSF around the brain becomes background.
    rescale : bool
        Rescale the final image between its percentiles, as inference does with real scans.
    """

    size: tuple[int, int, int] | None = (160, 160, 160)
    crop_jitter: float | None = None
    downsampling: int = 1
    ventricles: VentricleConfig | None = None
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    intensity: IntensityConfig = field(default_factory=IntensityConfig)
    myelination: MyelinationConfig = field(default_factory=MyelinationConfig)
    blur: tuple[float, float] = (0.3, 0.3)
    resolution: ResolutionConfig | None = None
    noise: NoiseConfig | None = None
    lesions: LesionConfig | None = None
    lesion_label: bool = False
    texture: TextureConfig | None = None
    artefacts: ArtefactConfig | None = None
    skull_strip_probability: float = 0.2
    no_csf_probability: float = 0
    rescale: bool = False


@dataclass(frozen=True)
class Draw:
    """Every random parameter of one synthetic scan.

    Attributes
    ----------
    start : tuple of int
        First voxel of the crop in the label map.
    growth : float
        Growth of the ventricles, in voxels of the label map.
    deformation, intensities : Deformation, Intensities
    myelination, resolution, noise, lesions, texture, artefacts : Myelination, ...; or None
    skull_strip, no_csf : bool
    blur : float
    noise_seed : int
        Seed of the voxel-wise noise, which is drawn on the device of the image.
    """

    start: tuple[int, int, int]
    growth: float
    deformation: Deformation
    intensities: Intensities
    myelination: Myelination | None
    resolution: Resolution | None
    noise: Noise | None
    lesions: Lesions | None
    texture: Texture | None
    artefacts: Artefacts | None
    skull_strip: bool
    no_csf: bool
    blur: float
    noise_seed: int


def output_size(
    config: GeneratorConfig, shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the sizes of the crop (in label-map voxels) and of the image."""
    factor = config.downsampling
    wanted = config.size or shape
    image = [min(n, w) // factor for n, w in zip(shape, wanted, strict=True)]
    crop = [n * factor for n in image]
    return (crop[0], crop[1], crop[2]), (image[0], image[1], image[2])


def draw(
    config: GeneratorConfig,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    centre: tuple[float, float, float] | None = None,
    spacing_mm: float = 1.0,
) -> Draw:
    """Draw every random parameter of one synthetic scan.

    Parameters
    ----------
    config : GeneratorConfig
    shape : tuple of int
        Size of the label map.
    generator : torch.Generator
        On the CPU.
    centre : tuple of float, optional
        Centre of the brain in voxels, for crops around it (default: centre of the map).
    spacing_mm : float
        Spacing of the label map.

    Returns
    -------
    Draw
    """
    crop, image = output_size(config, shape)
    room = [n - c for n, c in zip(shape, crop, strict=True)]
    where = torch.rand(3, generator=generator).tolist()
    deformation = draw_deformation(config.deformation, shape, generator)
    if config.crop_jitter is None:
        start = [int(w * (r + 1)) for w, r in zip(where, room, strict=True)]
    else:
        middle = moved(centre or tuple((n - 1) / 2 for n in shape), deformation, shape)
        first = [
            m - (c - 1) / 2 + (2 * w - 1) * config.crop_jitter
            for m, c, w in zip(middle, crop, where, strict=True)
        ]
        start = [min(max(round(f), 0), r) for f, r in zip(first, room, strict=True)]
    intensities = draw_intensities(config.intensity, image, generator)
    output_mm = spacing_mm * config.downsampling
    resolution, texture, artefacts, growth = None, None, None, 0.0
    noise, lesions, myelination = None, None, None
    if config.resolution is not None:
        resolution = draw_resolution(config.resolution, output_mm, generator)
    if config.texture is not None:
        texture = draw_texture(config.texture, image, output_mm, generator)
    if config.artefacts is not None:
        artefacts = draw_artefacts(config.artefacts, image, generator)
    if config.ventricles is not None:
        growth = draw_growth(config.ventricles, generator)
    strip, no_csf = torch.rand(2, generator=generator).tolist()
    noise_seed = int(torch.randint(2**62, (1,), generator=generator))
    if config.noise is not None:
        noise = draw_noise(config.noise, generator)
    if config.lesions is not None:
        lesions = draw_lesions(config.lesions, image, output_mm, generator)
    if intensities.deep_mean is not None:
        myelination = draw_myelination(config.myelination, image, output_mm, generator)
    return Draw(
        start=(start[0], start[1], start[2]),
        growth=growth,
        deformation=deformation,
        intensities=intensities,
        myelination=myelination,
        resolution=resolution,
        noise=noise,
        lesions=lesions,
        texture=texture,
        artefacts=artefacts,
        skull_strip=strip < config.skull_strip_probability,
        no_csf=no_csf < config.no_csf_probability,
        blur=float(uniform(config.blur, generator, 1)),
        noise_seed=noise_seed,
    )


def to_device(parameters: Draw, device: torch.device) -> Draw:
    """Move the tensors of a draw, and of all its parts, to a device.

    They are copied at once, from page-locked memory, so that the host need not wait until a GPU
    has done its earlier work.
    """
    here: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        here.append(tensor)
        return tensor

    _with_tensors(parameters, note)
    if all(tensor.device.type == device.type for tensor in here):
        return parameters
    flat = torch.cat([tensor.flatten() for tensor in here])
    if device.type == 'cuda':
        flat = flat.pin_memory()
    parts = iter(flat.to(device, non_blocking=True).split([tensor.numel() for tensor in here]))
    on_device: Draw = _with_tensors(parameters, lambda tensor: next(parts).view(tensor.shape))
    return on_device


def _with_tensors(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Replace each tensor of a dataclass and of its parts, in the order of the attributes."""
    if isinstance(part, Tensor):
        return change(part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    values = {one.name: _with_tensors(getattr(part, one.name), change) for one in fields(part)}
    return replace(part, **values)
