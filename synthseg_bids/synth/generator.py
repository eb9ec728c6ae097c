"""The generative model: make a synthetic scan and its target from a label map.

The steps, in the order of the MIDL 2020 paper (section 2):

1. deform the label map (:mod:`.deform`), optionally after resizing the ventricles
   (:mod:`.ventricles`);
2. optionally remove the skull or the CSF around the brain;
3. draw intensities from one Gaussian per label, blur, multiply by a bias field, normalise and
   apply gamma (:mod:`.intensity`);
4. optionally simulate an acquisition at a random resolution (:mod:`.resolution`, 2023 paper),
   with noise of the acquired voxels.

Not of the papers are: resized ventricles, lesions after step 1 (:mod:`.lesions`), textures in step
3 (:mod:`.texture`), artefacts after its bias field (:mod:`.artefacts`) and noise in step 4.

:func:`draw` draws every random parameter into a :class:`Draw`; :func:`apply` turns a label map
and a draw into an image. The same draw gives the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import CSF, DRAWN_LESIONS, LESION, generation_labels, segmentation_labels
from ..linear import apply_along_axes, blur_matrix
from .artefacts import ArtefactConfig, Artefacts, add_artefacts, draw_artefacts
from .deform import Deformation, DeformationConfig, deform_labels, draw_deformation, moved
from .intensity import (
    Intensities,
    IntensityConfig,
    bias_field,
    draw_intensities,
    normalise,
    rescale_percentiles,
)
from .lesions import LesionConfig, Lesions, add_lesions, draw_lesions
from .resolution import (
    Noise,
    NoiseConfig,
    Resolution,
    ResolutionConfig,
    acquire,
    add_noise,
    draw_noise,
    draw_resolution,
)
from .texture import Texture, TextureConfig, add_texture, draw_texture
from .ventricles import VentricleConfig, draw_growth, grow_ventricles


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
    blur : float
        Standard deviation of the blur after drawing intensities, in output voxels.
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
    blur: float = 0.3
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
    resolution, noise, lesions, texture, artefacts : Resolution, Noise, ...; or None
    skull_strip, no_csf : bool
    noise_seed : int
        Seed of the voxel-wise noise, which is drawn on the device of the image.
    """

    start: tuple[int, int, int]
    growth: float
    deformation: Deformation
    intensities: Intensities
    resolution: Resolution | None
    noise: Noise | None
    lesions: Lesions | None
    texture: Texture | None
    artefacts: Artefacts | None
    skull_strip: bool
    no_csf: bool
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
    noise, lesions = None, None
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
    return Draw(
        start=(start[0], start[1], start[2]),
        growth=growth,
        deformation=deformation,
        intensities=intensities,
        resolution=resolution,
        noise=noise,
        lesions=lesions,
        texture=texture,
        artefacts=artefacts,
        skull_strip=strip < config.skull_strip_probability,
        no_csf=no_csf < config.no_csf_probability,
        noise_seed=noise_seed,
    )


#: Intermediate results, from the deformed labels (rows of the generation table) to the scan.
STEPS = ('labels', 'gaussians', 'blur', 'bias field', 'final')
OnStep = Callable[[str, Tensor], None]


@lru_cache(maxsize=2)
def label_tables(lesions: bool = False) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return, per generation label, target channel, mirror row and extra-cerebral flag; CSF's row.

    With `lesions`, white-matter lesions have a channel of their own.
    """
    labels = generation_labels()
    row = {label.index: i for i, label in enumerate(labels)}
    channel = {label.index: label.channel for label in segmentation_labels(lesions=True)}
    targets = [
        LESION if lesions and label.index in DRAWN_LESIONS else label.target for label in labels
    ]
    return (
        torch.tensor([channel[target] for target in targets], dtype=torch.uint8),
        torch.tensor([row[label.mirror] for label in labels]),
        torch.tensor([label.extracerebral for label in labels]),
        row[CSF],
    )


def _label_lookup(parameters: Draw) -> Tensor:
    """Return, per generation label of the map, the label in the synthetic scan."""
    channel, mirror, extracerebral, csf = label_tables()
    lookup = mirror.clone() if parameters.deformation.flip else torch.arange(len(channel))
    if parameters.skull_strip:
        lookup[extracerebral] = 0
    if parameters.no_csf:
        lookup[csf] = 0
    return lookup


def to_device(parameters: Draw, device: torch.device) -> Draw:
    """Move the tensors of a draw, and of all its parts, to a device."""

    def moved_part(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.to(device)
        if not is_dataclass(part) or isinstance(part, type):
            return part
        values = {one.name: moved_part(getattr(part, one.name)) for one in fields(part)}
        return replace(part, **values)

    on_device: Draw = moved_part(parameters)
    return on_device


def apply(
    label_map: Tensor,
    parameters: Draw,
    config: GeneratorConfig,
    noise: Tensor | None = None,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Make a synthetic scan and its target from a label map and drawn parameters.

    Parameters
    ----------
    label_map : (x, y, z) uint8 tensor
        Rows of the generation table (:func:`synthseg_bids.labels.generation_indices`), in RAS
        orientation, on the device to use.
    parameters : Draw
    config : GeneratorConfig
        The configuration that the parameters were drawn with.
    noise : tensor of the image's size, optional
        Standard normal noise; by default drawn on the device from the draw's seed, so that CPU and
        GPU images of one draw differ only in their noise.
    on_step : callable, optional
        Called with the name and the result of each of :data:`STEPS`, which the next overwrites.

    Returns
    -------
    image : (x, y, z) float32 tensor
        In [0, 1].
    target : (x, y, z) uint8 tensor
        Network channel of each voxel.
    """
    device = label_map.device
    parameters = to_device(parameters, device)
    x, y, z = label_map.shape
    crop, size = output_size(config, (x, y, z))
    show = on_step or (lambda name, result: None)
    if on_step:
        show('labels', deformed_labels(label_map, parameters, config))
    mean, std, target = _paint(label_map, parameters, config, crop)
    if noise is None:
        source = torch.Generator(device).manual_seed(parameters.noise_seed)
        noise = torch.randn(size, generator=source, device=device)
    else:
        noise = noise.clone()
    if parameters.texture is not None:
        noise = add_texture(noise, parameters.texture)
    image = mean.addcmul_(std, noise)
    show('gaussians', image)
    if config.blur:
        first, second, third = (blur_matrix(n, config.blur) for n in size)
        image = apply_along_axes(image, (first, second, third))
    show('blur', image)
    image *= bias_field(parameters.intensities.log_bias, size)
    show('bias field', image)
    if parameters.artefacts is not None:
        add_artefacts(image, target, parameters.artefacts)
    image = finish(image, parameters, config)
    show('final', image)
    return image, target


def finish(image: Tensor, parameters: Draw, config: GeneratorConfig) -> Tensor:
    """Normalise, apply gamma, and acquire at a random resolution; may overwrite the image."""
    image = normalise(image, parameters.intensities.gamma, config.intensity.clip)
    noise, source = parameters.noise, None
    if noise is not None:
        source = torch.Generator(image.device).manual_seed(parameters.noise_seed ^ 2)
    if parameters.resolution is not None:
        image = acquire(image, parameters.resolution, noise, source)
    elif noise is not None and source is not None:
        image = add_noise(image, noise, source)
    if config.rescale:
        return rescale_percentiles(image)
    return image if noise is None else image.clamp_(0, 1)


def deformed_labels(label_map: Tensor, parameters: Draw, config: GeneratorConfig) -> Tensor:
    """Return the labels of a synthetic scan, extra-cerebral ones included.

    Parameters
    ----------
    label_map, parameters, config
        See :func:`apply`.

    Returns
    -------
    (x, y, z) uint8 tensor
        Rows of the generation table, in voxels of the label map.
    """
    parameters = to_device(parameters, label_map.device)
    crop, _ = output_size(config, (label_map.shape[0], label_map.shape[1], label_map.shape[2]))
    lookup = _label_lookup(parameters).to(label_map)
    return lookup[torch.cat(list(_with_lesions(label_map, parameters, config, crop))).int()]


def _with_lesions(
    label_map: Tensor, parameters: Draw, config: GeneratorConfig, crop: tuple[int, int, int]
) -> Iterator[Tensor]:
    """Deform the labels, then draw the lesions; yields slabs along x."""
    deformation, ranges = parameters.deformation, config.deformation
    moves = grow_ventricles(label_map, parameters.growth, ranges.field_step)
    where = parameters.start, crop
    slabs = deform_labels(label_map, deformation, ranges, *where, config.downsampling, moves=moves)
    if parameters.lesions is None:
        yield from slabs
        return
    parts = list(slabs)
    # Distances to ventricles and cortex depend on the whole label map.
    # Without a label of their own all lesions are cerebral white matter.
    rows = add_lesions(torch.cat(parts), parameters.lesions, config.lesion_label)
    yield from rows.split([len(p) for p in parts])


def _paint(
    label_map: Tensor, parameters: Draw, config: GeneratorConfig, crop: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Deform the labels and look up each voxel's mean, standard deviation and target."""
    device = label_map.device
    lookup = _label_lookup(parameters).to(device)
    means = parameters.intensities.means[lookup]
    stds = parameters.intensities.stds[lookup]
    channel = label_tables(config.lesion_label)[0].to(device)[lookup]
    factor = config.downsampling
    # The target of a coarse voxel is that of a random one of its voxels: unbiased, whereas any
    # fixed choice would shift the target against the image.
    chooser = torch.Generator(device).manual_seed(parameters.noise_seed ^ 1)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in _with_lesions(label_map, parameters, config, crop):
        index = rows.to(torch.int32)
        mean, std = means[index], stds[index]
        if factor > 1:
            mean, std = (
                functional.avg_pool3d(part[None, None], factor)[0, 0] for part in (mean, std)
            )
            index = choose_labels(index, factor, chooser)
        parts.append((mean, std, channel[index]))
    mean, std, target = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, std, target


def choose_labels(index: Tensor, factor: int, chooser: torch.Generator) -> Tensor:
    """Pick one of the factor**3 labels of each coarse voxel at random."""
    x, y, z = (n // factor for n in index.shape)
    blocks = index.view(x, factor, y, factor, z, factor).permute(0, 2, 4, 1, 3, 5)
    blocks = blocks.reshape(x, y, z, factor**3)
    pick = torch.randint(factor**3, (x, y, z, 1), generator=chooser, device=index.device)
    return blocks.gather(-1, pick)[..., 0]
