"""The generative model: make a synthetic scan and its target from a label map.

The steps, in the order of the MIDL 2020 paper (section 2):

1. deform the label map (:mod:`.deform`), optionally after resizing the ventricles
   (:mod:`.ventricles`);
2. optionally remove the skull or the CSF around the brain;
3. draw intensities from one Gaussian per label, blur, multiply by a bias field, normalise and
   apply gamma (:mod:`.intensity`);
4. optionally simulate an acquisition at a random resolution (:mod:`.resolution`, 2023 paper),
   with noise of the acquired voxels.

Not of the papers are: resized ventricles, lesions after step 1 (:mod:`.lesions`), the myelination
of children (:mod:`.myelination`) and textures (:mod:`.texture`) in step 3, artefacts after its
bias field (:mod:`.artefacts`) and noise in step 4.

:func:`.parameters.draw` draws every random parameter into a :class:`.parameters.Draw`;
:func:`apply` turns a label map and a draw into an image. The same draw gives the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import CSF, DRAWN_LESIONS, LESION, generation_labels, segmentation_labels
from ..linear import CPU, apply_along_axes, blur_matrix
from .artefacts import add_artefacts
from .deform import deform_labels
from .intensity import bias_field, normalise, rescale_percentiles
from .lesions import add_lesions
from .myelination import deep_fraction
from .parameters import Draw, GeneratorConfig, output_size, to_device
from .resolution import acquire, add_noise
from .texture import add_texture
from .ventricles import grow_ventricles

#: Intermediate results, from the deformed labels (rows of the generation table) to the scan.
STEPS = ('labels', 'gaussians', 'blur', 'bias field', 'final')
OnStep = Callable[[str, Tensor], None]


@lru_cache(maxsize=8)
def label_tables(
    lesions: bool = False, device: torch.device = CPU
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return, per generation label, target channel, mirror row and extra-cerebral flag; CSF's row.

    With `lesions`, white-matter lesions have a channel of their own. Tables stay on each device:
    a copy for every scan would wait for a GPU.
    """
    labels = generation_labels()
    row = {label.index: i for i, label in enumerate(labels)}
    channel = {label.index: label.channel for label in segmentation_labels(lesions=True)}
    targets = [
        LESION if lesions and label.index in DRAWN_LESIONS else label.target for label in labels
    ]
    return (
        torch.tensor([channel[target] for target in targets], dtype=torch.uint8, device=device),
        torch.tensor([row[label.mirror] for label in labels], device=device),
        torch.tensor([label.extracerebral for label in labels], device=device),
        row[CSF],
    )


def _label_lookup(parameters: Draw, device: torch.device) -> Tensor:
    """Return, per generation label of the map, the label in the synthetic scan."""
    channel, mirror, extracerebral, csf = label_tables(device=device)
    rows = torch.arange(len(channel), device=device)
    lookup = mirror.clone() if parameters.deformation.flip else rows
    if parameters.skull_strip:
        lookup.masked_fill_(extracerebral, 0)
    if parameters.no_csf:
        lookup[csf] = 0
    return lookup


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
    if parameters.blur:
        first, second, third = (blur_matrix(n, parameters.blur, device) for n in size)
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
    lookup = _label_lookup(parameters, label_map.device).to(label_map.dtype)
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
    lookup = _label_lookup(parameters, device)
    means = parameters.intensities.means[lookup]
    stds = parameters.intensities.stds[lookup]
    channel = label_tables(config.lesion_label, device)[0][lookup]
    factor = config.downsampling
    # The target of a coarse voxel is that of a random one of its voxels: unbiased, whereas any
    # fixed choice would shift the target against the image.
    chooser = torch.Generator(device).manual_seed(parameters.noise_seed ^ 1)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    slabs = _with_lesions(label_map, parameters, config, crop)
    myelination, deep_mean = parameters.myelination, parameters.intensities.deep_mean
    if myelination is not None:
        # Depth below the cortex depends on the whole label map.
        slabs = iter([torch.cat(list(slabs))])
    for rows in slabs:
        index = rows.to(torch.int32)
        mean, std = means[index], stds[index]
        if myelination is not None and deep_mean is not None:
            mean.addcmul_(deep_fraction(rows, myelination), deep_mean - mean)
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
