"""The U-Net's forward pass, rearranged for inference: the same function, less work and memory.

Against :class:`~synthseg_bids.network.UNet3D`,

- the first convolution of a decoder level never sees the concatenated tensor:
  ``conv([skip, up]) = conv_a(skip) + conv_b(up)``;
- ``conv_b``, a 3x3x3 convolution of a tensor that was up-sampled by repetition, is computed on
  the tensor before that: each of the 8 output voxels of a coarse voxel sees 2x2x2 coarse voxels
  only, weighted by sums of the 27 weights (3.4 times fewer operations, exact at the borders too);
- weights are converted to the number format once, and activations are made in place;
- a normalisation before the output layer is folded into it, and that layer works on slabs, in
  float32, so that the logits of all labels never stand in memory at once.

``docs/speed.rst`` says what each of them gave.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .device import fast_dtype
from .network import Level, UNet3D

#: Voxels of which the output layer's logits are in memory at once: about what the caches hold.
SLAB_VOXELS = 2**17

PARITIES = tuple(itertools.product((0, 1), repeat=3))


def sub_pixel_weights(weight: Tensor) -> Tensor:
    """Turn the weights for an up-sampled tensor into those for the tensor before.

    Parameters
    ----------
    weight : (n_out, n_in, 3, 3, 3) tensor

    Returns
    -------
    (8 * n_out, n_in, 2, 2, 2) tensor
        For the output voxels at even and odd positions along each axis, in the order of
        `PARITIES`. An even voxel sees the coarse voxel before its own with its first weight and
        its own with the sum of the others; an odd one the other way round.
    """
    kernels = []
    for parity in PARITIES:
        kernel = weight
        for axis, odd in enumerate(parity, start=2):
            first, middle, last = kernel.unbind(axis)
            pair = [first + middle, last] if odd else [first, middle + last]
            kernel = torch.stack(pair, axis)
        kernels.append(kernel)
    return torch.cat(kernels)


def output_layer(network: UNet3D) -> tuple[Tensor, Tensor]:
    """Return the output layer's weights and biases, the last normalisation folded in if fixed.

    Returns
    -------
    weight : (n_channels, n_features) float32 tensor
    bias : (n_channels,) float32 tensor
    """
    weight = network.likelihood.weight.detach().flatten(1).float()
    assert network.likelihood.bias is not None
    bias = network.likelihood.bias.detach().float()
    norm = network.up[-1].norm
    if not isinstance(norm, nn.BatchNorm3d):
        return weight, bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias.detach() - norm.running_mean * scale
    return weight * scale, bias + weight @ shift


def slabs(features: Tensor) -> Iterator[slice]:
    """Cut features ``(1, n_features, x, y, z)`` along x into slabs of about `SLAB_VOXELS`."""
    n_x, n_y, n_z = features.shape[2:]
    thickness = max(1, SLAB_VOXELS // (n_y * n_z))
    for first in range(0, n_x, thickness):
        yield slice(first, min(first + thickness, n_x))


class Engine:
    """A trained U-Net, ready to run.

    Parameters
    ----------
    network : UNet3D
        Not changed.
    device : torch.device
    dtype : torch.dtype, optional
        Of weights and activations; sums are made in float32 (default: the fastest that keeps the
        accuracy, see :func:`~synthseg_bids.device.fast_dtype`).
    """

    def __init__(
        self, network: UNet3D, device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        self.config = network.config
        self.device = device
        self.dtype = dtype or fast_dtype(device)
        self._weight, self._bias = (t.to(device) for t in output_layer(network))
        network = copy.deepcopy(network).eval().requires_grad_(False).to(device)
        for module in network.modules():
            if isinstance(module, nn.Conv3d):  # normalisations stay in float32
                module.to(dtype=self.dtype, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._down = [cast(Level, level) for level in network.down]
        self._up = [cast(Level, level) for level in network.up]
        self._reduce = list(network.reduce)
        joined = self._up if self.config.skip == 'concat' else []
        self._joins = [_split(cast(nn.Conv3d, level.convs[0])) for level in joined]

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """Compute everything but the output layer.

        Parameters
        ----------
        x : (1, 1, x, y, z) tensor
            Sides are multiples of ``config.size_multiple``.

        Returns
        -------
        (1, n_features, x, y, z) tensor
            For :meth:`logits`.
        """
        skips = []
        x = x.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last_3d)
        for level in self._down[:-1]:
            skips.append(_convolve(level, x))
            x = functional.max_pool3d(level.norm(skips[-1]), 2)
        x = self._down[-1].norm(_convolve(self._down[-1], x))
        last = len(self._up) - 1
        for i, (reduce, level) in enumerate(zip(self._reduce, self._up, strict=True)):
            if self._joins:
                x = _activate(level, 0, self._join(i, skips.pop(), x))
                x = _convolve(level, x, first=1)
            else:
                x = functional.interpolate(reduce(x), scale_factor=2.0, mode='nearest')
                x = _convolve(level, skips.pop().add_(x))
            if i < last:  # the last one may be part of the output layer
                x = level.norm(x)
        return x

    @torch.inference_mode()
    def logits(self, features: Tensor, where: slice) -> Tensor:
        """Compute the output layer in a slab.

        Parameters
        ----------
        features : (1, n_features, x, y, z) tensor
            From :meth:`features`.
        where : slice
            Along the first axis; see :func:`slabs`.

        Returns
        -------
        (n_channels, x', y, z) float32 tensor
        """
        voxels = features[0].movedim(0, -1)[where]
        rows = voxels.reshape(-1, voxels.shape[-1]).float()
        found = torch.addmm(self._bias[:, None], self._weight, rows.T)
        return found.view(-1, *voxels.shape[:3])

    def _join(self, i: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the first convolution of decoder level `i`, before its activation."""
        for_skip, for_below = self._joins[i]
        bias = cast(nn.Conv3d, self._up[i].convs[0]).bias
        joined = functional.conv3d(skip, for_skip, bias, padding=1)
        # One voxel longer than `below`: the sums of even voxels start one before their own.
        coarse = functional.conv3d(below, for_below, padding=1)
        parts = coarse.chunk(len(PARITIES), 1)
        for parity, part in zip(PARITIES, parts, strict=True):
            (a, b, c), (x, y, z) = parity, below.shape[2:]
            joined[..., a::2, b::2, c::2] += part[..., a : a + x, b : b + y, c : c + z]
        return joined


def _split(conv: nn.Conv3d) -> tuple[Tensor, Tensor]:
    """Split a convolution's weights into those for the skip connection and for what is below."""
    layout, n_skip = torch.channels_last_3d, conv.out_channels
    # Summed in float32 before they are rounded.
    below = sub_pixel_weights(conv.weight[:, n_skip:].float()).to(conv.weight.dtype)
    skip = conv.weight[:, :n_skip]
    return skip.contiguous(memory_format=layout), below.contiguous(memory_format=layout)


def _convolve(level: Level, x: Tensor, first: int = 0) -> Tensor:
    """Run the convolutions of a level from the one numbered `first` on."""
    for i in range(first, len(level.convs)):
        x = _activate(level, i, level.convs[i](x))
    return x


def _activate(level: Level, i: int, x: Tensor) -> Tensor:
    return functional.elu_(level.norms[i](x) if level.norms else x)
