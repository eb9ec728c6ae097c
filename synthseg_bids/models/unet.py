"""3D U-Net (Ronneberger 2015, Cicek 2016) as SynthSeg uses it.

With its defaults the network has the topology of the MIDL 2020 paper (section 2.4) and of its
public implementation: five levels of two 3x3x3 convolutions with ELU, 24 features doubled after
each max-pooling, nearest-neighbour up-sampling, and one batch normalisation per level, placed
after the activation and after the skip connection branches off. At 33 channels it has
13,240,641 trainable parameters.

Networks trained here normalise with each scan's own statistics instead (``norm='instance'``):
statistics differ between synthetic contrasts, so that running averages fit no scan.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Added to the variances of features.
EPSILON = 1e-5
#: Voxels whose features one thread sums, and number of values that fit the CPU's caches.
BLOCK = 256
MOMENTS_VALUES = 2**17


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of the U-Net; the defaults are the paper's.

    Attributes
    ----------
    out_channels : int
        Number of segmentation labels, background included.
    features : int
        Features of the first level, doubled from level to level.
    levels : int
        Number of resolution levels; sizes must be multiples of ``2 ** (levels - 1)``.
    encoder_convs, decoder_convs : int
        Convolutions per level.
    norm : {'batch', 'instance'}
        Normalisation with running averages or with the scan's own statistics.
    norm_placement : {'level', 'conv'}
        Once per level after the last activation, or between each convolution and its activation.
    skip : {'concat', 'add'}
        Skip connections are concatenated (paper), or added after a 1x1x1 convolution that halves
        the features before up-sampling: 2.4 times fewer operations with one convolution per
        decoder level.
    sub_voxels : int
        Scan voxels along each side of a voxel of the first level. With 2, each block of 2x2x2
        scan voxels becomes one network voxel with eight input channels, and the output layer
        gives the logits of all eight: every wide layer works on an eighth of the voxels.
    output_features : int
        Input features of the output layer; 0 for as many as the first level has.
    in_channels : int
        Channels of the input: 1 for a scan, more for the parcel network.
    deep_features : int
        Features of the second level, doubled from there on; 0 for twice those of the first. With
        `sub_voxels` the first level holds the details of several voxels, and needs more.
    """

    out_channels: int = 33
    features: int = 24
    levels: int = 5
    encoder_convs: int = 2
    decoder_convs: int = 2
    norm: str = 'batch'
    norm_placement: str = 'level'
    skip: str = 'concat'
    sub_voxels: int = 1
    output_features: int = 0
    in_channels: int = 1
    deep_features: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ('norm', ('batch', 'instance')),
            ('norm_placement', ('level', 'conv')),
            ('skip', ('concat', 'add')),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f'NetworkConfig.{name}: {getattr(self, name)!r} not in {choices}')

    @property
    def size_multiple(self) -> int:
        """Every side of an input must be a multiple of this."""
        return self.sub_voxels * 2 ** (self.levels - 1)

    @property
    def level_features(self) -> list[int]:
        """Features of each level, from fine to coarse."""
        second = self.deep_features or 2 * self.features
        return [self.features] + [second * 2**level for level in range(self.levels - 1)]

    @property
    def positions(self) -> int:
        """Number of scan voxels in a voxel of the first level."""
        return self.sub_voxels**3


def fold_voxels(images: Tensor, factor: int) -> Tensor:
    """Turn blocks of voxels into channels ("space to depth").

    Parameters
    ----------
    images : (batch, channels, x, y, z) tensor
        Sides are multiples of `factor`.
    factor : int

    Returns
    -------
    (batch, factor**3 * channels, x / factor, y / factor, z / factor) tensor
        The channels of each block's first voxel, then of its next one along z, and so on.
    """
    if factor == 1:
        return images
    batch, channels, *sides = images.shape
    x, y, z = (n // factor for n in sides)
    blocks = images.reshape(batch, channels, x, factor, y, factor, z, factor)
    folded = blocks.permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(batch, -1, x, y, z)
    return folded.contiguous(memory_format=torch.channels_last_3d)


def unfold_voxels(images: Tensor, factor: int) -> Tensor:
    """Undo :func:`fold_voxels`."""
    if factor == 1:
        return images
    batch, channels, x, y, z = images.shape
    blocks = images.reshape(batch, factor, factor, factor, -1, x, y, z)
    order = blocks.permute(0, 4, 5, 1, 6, 2, 7, 3)
    return order.reshape(batch, channels // factor**3, x * factor, y * factor, z * factor)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of each feature of a scan, on the CPU.

    The order of summation does not depend on the number of threads, and long sums are float64:
    PyTorch's normalisation rounds the variance in the fourth digit.

    Parameters
    ----------
    x : (1, features, x, y, z) tensor

    Returns
    -------
    mean, variance : (features,) float64 tensor
    """
    n_features = x.shape[1]
    values = x.movedim(1, -1).reshape(-1, n_features)
    sums = torch.zeros(n_features, dtype=torch.float64)
    squares = torch.zeros_like(sums)
    for part in values.split(max(1, MOMENTS_VALUES // n_features // BLOCK) * BLOCK):
        wide = part.float()
        sums += _sum_blocks(wide)
        squares += _sum_blocks(wide.square())
    mean = sums / len(values)
    return mean, (squares / len(values) - mean**2).clamp_(min=0)


def _sum_blocks(values: Tensor) -> Tensor:
    """Sum rows: within blocks in float32, each by one thread; over blocks in float64."""
    whole = len(values) - len(values) % BLOCK
    blocks = values[:whole].view(whole // BLOCK, BLOCK, values.shape[1]).sum(1)
    rest = values[whole:].sum(0, keepdim=True)
    return torch.cat([blocks, rest]).double().sum(0)


class InstanceNorm(nn.Module):
    """Normalise each scan and feature by its own mean and variance, then scale and shift."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor and then the offset that normalise each feature of a scan."""
        mean, variance = moments(x)
        scale = self.weight.double() / (variance + EPSILON).sqrt()
        shift = self.bias.double() - mean * scale
        return scale.float(), shift.float()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(batch, features, x, y, z)``."""
        learning = self.training or x.requires_grad
        if len(x) == 1 and x.device.type == 'cpu' and not learning:
            scale, shift = (part.view(-1, 1, 1, 1) for part in self.scale_and_shift(x))
            return torch.addcmul(shift, x, scale).to(x.dtype)
        if len(x) == 1:
            # Equal to instance_norm for a single scan, with a fast channels-last kernel.
            return functional.batch_norm(
                x, None, None, self.weight, self.bias, training=True, eps=EPSILON
            )
        return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)


def _norm(config: NetworkConfig, features: int) -> nn.Module:
    if config.norm == 'batch':
        # Keras' epsilon and momentum, so that official weights give the same posteriors.
        return nn.BatchNorm3d(features, eps=1e-3, momentum=0.01)
    return InstanceNorm(features)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Convolve; in float32 where the first axis has two slices.

    There oneDNN leaves parts of the weights' bfloat16 gradient uninitialised (3x3x3 convolutions
    with padding, PyTorch 2.13 on AVX512-bf16).
    """
    if x.shape[2] == 2 and torch.is_autocast_enabled('cpu'):
        with torch.autocast('cpu', enabled=False):
            return conv(x.float())
    return conv(x)


class Level(nn.Module):
    """The convolutions of one level, returned before and after the level's normalisation."""

    def __init__(self, config: NetworkConfig, inputs: int, features: int, convs: int) -> None:
        super().__init__()
        per_conv = config.norm_placement == 'conv'
        sizes = [inputs] + [features] * convs
        # A normalisation right after a convolution cancels its bias.
        self.convs = nn.ModuleList(
            nn.Conv3d(a, b, 3, padding=1, bias=not per_conv) for a, b in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(_norm(config, features) for _ in range(convs * per_conv))
        self.norm = nn.Identity() if per_conv else _norm(config, features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last activation (for the skip connection) and its normalised version."""
        for i, conv in enumerate(self.convs):
            x = convolve(conv, x)
            if self.norms:
                x = self.norms[i](x)
            x = functional.elu(x)
        return x, self.norm(x)


class UNet3D(nn.Module):
    """3D U-Net that maps a scan to the logits of each label.

    Parameters
    ----------
    config : NetworkConfig
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        sizes = config.level_features
        inputs = [config.positions * config.in_channels, *sizes[:-1]]
        self.down = nn.ModuleList(
            Level(config, a, b, config.encoder_convs) for a, b in zip(inputs, sizes, strict=True)
        )
        add = config.skip == 'add'
        upward = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.reduce = nn.ModuleList(
            nn.Conv3d(deep, shallow, 1) if add else nn.Identity() for deep, shallow in upward
        )
        last = config.output_features or config.features
        outputs = [*sizes[-2:0:-1], last]
        self.up = nn.ModuleList(
            Level(config, shallow if add else deep + shallow, output, config.decoder_convs)
            for (deep, shallow), output in zip(upward, outputs, strict=True)
        )
        self.likelihood = nn.Conv3d(last, config.out_channels * config.positions, 1)

    def place(self, device: torch.device | str) -> UNet3D:
        """Move to a device, in the memory layout in which 3D convolutions are fast."""
        layout = torch.channels_last_3d
        return self.to(device=device, memory_format=layout)  # type: ignore[call-overload]

    def forward(self, x: Tensor, position: int | None = None) -> Tensor:
        """Return logits.

        Parameters
        ----------
        x : (batch, in_channels, x, y, z) tensor
            Scans in RAS orientation, intensities in [0, 1]; sides are multiples of
            ``config.size_multiple``.
        position : int, optional
            Return only the logits of the voxel at this position (in C order) of each block of
            ``config.sub_voxels`` cubed voxels.

        Returns
        -------
        (batch, out_channels, x, y, z) tensor
            With `position`, sides are smaller by ``config.sub_voxels``.
        """
        skips = []
        x = fold_voxels(x, self.config.sub_voxels)
        for level in self.down[:-1]:
            skip, x = level(x)
            skips.append(skip)
            x = functional.max_pool3d(x, 2)
        x = self.down[-1](x)[1]
        for reduce, level in zip(self.reduce, self.up, strict=True):
            x = functional.interpolate(reduce(x), scale_factor=2.0, mode='nearest')
            skip = skips.pop()
            x = skip + x if self.config.skip == 'add' else torch.cat([skip, x], 1)
            x = level(x)[1]
        if position is None:
            return unfold_voxels(self.likelihood(x), self.config.sub_voxels)
        n = self.config.out_channels
        part = slice(position * n, (position + 1) * n)
        assert self.likelihood.bias is not None
        return functional.conv3d(x, self.likelihood.weight[part], self.likelihood.bias[part])


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad images with zeros at the end of each axis to sizes that a U-Net can halve.

    Parameters
    ----------
    images : (batch, channels, x, y, z) tensor
    multiple : int
        Sides become multiples of it; see ``NetworkConfig.size_multiple``.

    Returns
    -------
    (batch, channels, x', y', z') tensor
        In channels-last memory layout.
    """
    missing = [-n % multiple for n in images.shape[2:]]
    if any(missing):
        images = functional.pad(images, (0, missing[2], 0, missing[1], 0, missing[0]))
    return images.contiguous(memory_format=torch.channels_last_3d)
