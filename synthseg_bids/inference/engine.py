"""Forward pass of the U-Net for inference: the same function with less computation and memory.

Differences from :class:`~synthseg_bids.models.unet.UNet3D`:

- skip connections are not concatenated: the first convolution of a decoder level is
  ``conv([skip, up]) = conv_a(skip) + conv_b(up)``;
- ``conv_b``, a 3x3x3 convolution of a tensor up-sampled by repetition, is computed before the
  up-sampling: each of the 8 output voxels of a coarse voxel depends on 2x2x2 coarse voxels,
  weighted by sums of the 27 weights (3.4 times fewer operations, exact at the borders too);
- weights are converted to the number format once, and activations work in place;
- in bfloat16 on the CPU, wide convolutions take a third fewer operations (see
  :mod:`~synthseg_bids.inference.winograd`);
- a batch normalisation before the output layer is folded into it, and that layer works on blocks,
  in float32, so that the logits of all labels are never in memory at once.

``docs/speed.rst`` has measurements.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..hardware.device import fast_dtype
from ..models.unet import InstanceNorm, Level, UNet3D, fold_voxels
from .winograd import MIN_FEATURES, WinogradConv3d, channels_last, elu_

#: Scan voxels whose logits are in memory at once: about what the CPU's caches hold; and on a GPU,
#: where few and large steps are faster.
BLOCK_VOXELS = 2**14
GPU_BLOCK_VOXELS = 2**18

CPU = torch.device('cpu')

PARITIES = tuple(itertools.product((0, 1), repeat=3))


def sub_pixel_weights(weight: Tensor) -> Tensor:
    """Convert weights for an up-sampled tensor into weights for the tensor before up-sampling.

    Parameters
    ----------
    weight : (n_out, n_in, 3, 3, 3) tensor

    Returns
    -------
    (8 * n_out, n_in, 2, 2, 2) tensor
        For output voxels at even and odd positions along each axis, in the order of `PARITIES`.
        At even positions the first weight applies to the preceding coarse voxel and the sum of
        the other two to the voxel's own; at odd positions vice versa.
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
    """Return the output layer's weights and biases, with the last batch normalisation folded in.

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


def blocks(
    box: Sequence[slice], positions: int = 1, device: torch.device = CPU
) -> Iterator[tuple[slice, slice, slice]]:
    """Cut a box of features into blocks: along x, and planes that are too large along y as well.

    Parameters
    ----------
    box : three slices
    positions : int
        Scan voxels per feature voxel.
    device : torch.device
        A block has about `BLOCK_VOXELS` scan voxels, on a GPU `GPU_BLOCK_VOXELS`.
    """
    x, y, z = box
    most = (BLOCK_VOXELS if device.type == 'cpu' else GPU_BLOCK_VOXELS) // positions
    row = max(1, z.stop - z.start)
    height = max(1, min(y.stop - y.start, most // row))
    thickness = max(1, most // (row * height))
    for i in range(x.start, x.stop, thickness):
        for j in range(y.start, y.stop, height):
            yield slice(i, min(i + thickness, x.stop)), slice(j, min(j + height, y.stop)), z


class Engine:
    """A trained U-Net, ready to run.

    Parameters
    ----------
    network : UNet3D
        Not changed.
    device : torch.device
    dtype : torch.dtype, optional
        Number format of weights and activations; sums are in float32 (default: see
        :func:`~synthseg_bids.hardware.device.fast_dtype`).
    memory_limit : int, optional
        Bytes that a forward pass may use (default: all that are free).
    """

    def __init__(
        self,
        network: UNet3D,
        device: torch.device,
        dtype: torch.dtype | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self.config = network.config
        self.device = device
        self.memory_limit = memory_limit
        self.dtype = dtype or fast_dtype(device)
        self._weight, self._bias = (t.to(device) for t in output_layer(network))
        network = copy.deepcopy(network).eval().requires_grad_(False).to(device)
        self._down = [cast(Level, level) for level in network.down]
        self._up = [cast(Level, level) for level in network.up]
        self._reduce = list(network.reduce)
        joined = self._up if self.config.skip == 'concat' else []
        self._joins = [
            self._split(cast(nn.Conv3d, level.convs[0]), self.config.level_features[depth])
            for depth, level in zip(range(len(joined) - 1, -1, -1), joined, strict=True)
        ]
        for level in (*self._down[:-1], *self._up):  # the deepest may have an odd number of planes
            for i in range(int(level in joined), len(level.convs)):
                conv = cast(nn.Conv3d, level.convs[i])
                if self._transforms(conv):
                    level.convs[i] = WinogradConv3d(conv.weight, conv.bias)
        for module in network.modules():
            if isinstance(module, nn.Conv3d):  # normalisations stay in float32
                module.to(dtype=self.dtype, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """Compute everything except the output layer.

        Parameters
        ----------
        x : (1, 1, x, y, z) tensor
            Sides are multiples of ``config.size_multiple``.

        Returns
        -------
        (1, n_features, x, y, z) tensor
            For :meth:`logits`.
        """
        x = self._fold(x)
        level = self._down[0]
        skips = [_convolve(level, x)]
        below = self._below(functional.max_pool3d(level.norm(skips[0]), 2))
        x = self._rise(-1, skips, below)
        last = self._up[-1].norm
        return x if isinstance(last, nn.BatchNorm3d) else last(x)  # see output_layer

    @torch.inference_mode()
    def features_by_rows(self, x: Tensor, thickness: int) -> Callable[[slice], Tensor]:
        """Compute :meth:`features` lazily, with the finest level slab by slab.

        The finest skip connection, most of the memory, is computed twice instead of kept. Not
        for instance normalisation, which needs statistics of the whole scan.

        Parameters
        ----------
        x : (1, 1, x, y, z) tensor
        thickness : int
            Even number of rows in a slab.

        Returns
        -------
        callable
            Maps a slice of rows, with even ends, to their features.
        """
        x = self._fold(x)
        level, n_x = self._down[0], x.shape[2]

        def around(rows: slice, convolutions: int) -> slice:
            halo = convolutions + convolutions % 2
            return slice(max(rows.start - halo, 0), min(rows.stop + halo, n_x))

        def inner(found: Tensor, seen: slice, rows: slice) -> Tensor:
            return found.narrow(2, rows.start - seen.start, rows.stop - rows.start)

        pooled = []
        for first in range(0, n_x, thickness):
            rows = slice(first, min(first + thickness, n_x))
            seen = around(rows, self.config.encoder_convs)
            skip = inner(_convolve(level, x[:, :, seen]), seen, rows)
            pooled.append(functional.max_pool3d(level.norm(skip), 2))
        below = self._below(torch.cat(pooled, 2))

        def compute(rows: slice) -> Tensor:
            seen = around(rows, self.config.encoder_convs + self.config.decoder_convs)
            coarse = below[:, :, seen.start // 2 : seen.stop // 2]
            with torch.inference_mode():
                return inner(self._rise(-1, [_convolve(level, x[:, :, seen])], coarse), seen, rows)

        return compute

    def _fold(self, x: Tensor) -> Tensor:
        x = x.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last_3d)
        return fold_voxels(x, self.config.sub_voxels)

    def _below(self, x: Tensor) -> Tensor:
        """Compute all levels below the finest one."""
        skips = []
        for level in self._down[1:-1]:
            skips.append(_convolve(level, x))
            x = functional.max_pool3d(level.norm(skips[-1]), 2)
        x = self._down[-1].norm(_convolve(self._down[-1], x))
        for i, level in enumerate(self._up[:-1]):
            x = level.norm(self._rise(i, skips, x))
        return x

    def _rise(self, i: int, skips: list[Tensor], x: Tensor) -> Tensor:
        """Compute decoder level `i` without its normalisation; frees the last of `skips`."""
        level = self._up[i]
        if self._joins:
            x = _activate(level, 0, self._join(i, skips.pop(), x))
            return _convolve(level, x, first=1)
        x = functional.interpolate(self._reduce[i](x), scale_factor=2.0, mode='nearest')
        return _convolve(level, skips.pop().add_(x))

    @torch.inference_mode()
    def logits(
        self,
        features: Tensor,
        box: Sequence[slice],
        mirror: Tensor | None = None,
        position: int | None = None,
        channels: Tensor | None = None,
    ) -> Tensor:
        """Compute the output layer in a box.

        Parameters
        ----------
        features : (1, n_features, x, y, z) tensor
            From :meth:`features`.
        box : three slices
            See :func:`blocks`.
        mirror : (n_channels,) integer tensor, optional
            For features of the mirrored scan: the channel permutation of a left/right flip. Box
            and logits are then those of the scan before mirroring.
        position : int, optional
            The only scan voxel of each feature voxel to compute (default: all).
        channels : integer tensor, optional
            Channels to compute (default: all).

        Returns
        -------
        (positions, n_channels, x', y', z') float32 tensor
            Logits of the scan voxels in each feature voxel, in the order of
            :func:`~synthseg_bids.models.unet.fold_voxels`.
        """
        positions, n_channels = self.config.positions, self.config.out_channels
        weight = self._weight.view(positions, n_channels, -1)
        bias = self._bias.view(positions, n_channels, 1)
        x, y, z = box
        if mirror is not None:
            n_x = features.shape[2]
            x = slice(n_x - x.stop, n_x - x.start)
            # Mirroring also reverses the order along x within a voxel.
            sides = [self.config.sub_voxels] * 3
            swap = torch.arange(positions, device=weight.device).view(sides).flip(0).flatten()
            chosen = swap if position is None else swap[position : position + 1]
            weight, bias = weight[chosen][:, mirror], bias[chosen][:, mirror]
        elif position is not None:
            weight, bias = weight[position : position + 1], bias[position : position + 1]
        if channels is not None:
            weight, bias = weight[:, channels], bias[:, channels]
        voxels = features[0].movedim(0, -1)[x, y, z]
        if mirror is not None:
            voxels = voxels.flip(0)
        rows = voxels.reshape(-1, voxels.shape[-1]).float()
        found = torch.addmm(bias.flatten()[:, None], weight.flatten(0, 1), rows.T)
        return found.view(*weight.shape[:2], *voxels.shape[:3])

    def _join(self, i: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the first convolution of decoder level `i`, before its activation."""
        for_skip, for_below = self._joins[i]
        joined = channels_last(for_skip(skip))
        # `coarse` is one voxel longer than `below`: sums of even voxels start one voxel earlier.
        rows, (x, y), n_out = _rows(joined), below.shape[2:4], joined.shape[1]
        for kernel, (a, b) in zip(for_below, itertools.product((0, 1), repeat=2), strict=True):
            coarse = _rows(functional.conv3d(below, kernel, padding=1))
            # Odd voxels of a coarse voxel come first (see _split): except for the first and the
            # last, fine voxels along z are already in order.
            rows[a::2, b::2] += coarse[a : a + x, b : b + y, n_out:-n_out]
        return joined

    def _split(
        self, conv: nn.Conv3d, n_skip: int
    ) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
        """Split a convolution into that of the skip connection and those of the coarser level.

        There is one of the latter for each parity along x and y. Their channels are those of odd
        voxels along z, then those of even ones.
        """
        # Sum in float32 before rounding.
        below = sub_pixel_weights(conv.weight[:, n_skip:]).to(self.dtype)
        kernels = below.unflatten(0, (4, 2, conv.out_channels)).flip(1).flatten(1, 2)
        weight, bias = conv.weight[:, :n_skip], conv.bias
        for_skip: Callable[[Tensor], Tensor]
        if self._transforms(conv):
            for_skip = WinogradConv3d(weight, bias)
        else:
            weight = channels_last(weight.to(self.dtype))
            bias = None if bias is None else bias.to(self.dtype)
            for_skip = partial(functional.conv3d, weight=weight, bias=bias, padding=1)
        return for_skip, [channels_last(kernel) for kernel in kernels]

    def _transforms(self, conv: nn.Conv3d) -> bool:
        """Return whether Winograd's algorithm is faster for a convolution."""
        wide = min(conv.in_channels, conv.out_channels) >= MIN_FEATURES
        return wide and self.dtype == torch.bfloat16 and self.device.type == 'cpu'


def _rows(x: Tensor) -> Tensor:
    """View ``(1, features, x, y, z)`` in memory order: ``(x, y, z * features)``."""
    x = channels_last(x)[0].movedim(0, -1)
    return x.view(*x.shape[:2], -1)


def _convolve(level: Level, x: Tensor, first: int = 0) -> Tensor:
    """Run the convolutions of a level, starting with number `first`."""
    for i in range(first, len(level.convs)):
        conv = level.convs[i]
        if isinstance(conv, WinogradConv3d) and not level.norms:
            x = conv(x, elu=True)
        else:
            x = _activate(level, i, _direct(conv, x))
    return x


def _direct(conv: nn.Module, x: Tensor) -> Tensor:
    """Convolve with oneDNN where it is there.

    With one thread, PyTorch takes a slower way for the few voxels of deep levels, up to three
    times as slow.
    """
    here = x.device.type == 'cpu' and x.dtype == torch.float32
    if here and isinstance(conv, nn.Conv3d) and torch.backends.mkldnn.is_available():
        ones = (1, 1, 1)
        return torch.mkldnn_convolution(x, conv.weight, conv.bias, ones, ones, ones, 1)
    return conv(x)


def _activate(level: Level, i: int, x: Tensor) -> Tensor:
    """Normalise and activate; on the CPU in place."""
    norm = level.norms[i] if level.norms else None
    if x.device.type != 'cpu':
        return functional.elu_(norm(x) if norm else x)
    factors: tuple[Tensor, ...] = ()
    if isinstance(norm, InstanceNorm):
        factors = norm.scale_and_shift(x)
    elif norm:
        x = norm(x)
    if x.dtype == torch.bfloat16:
        return elu_(channels_last(x), *factors)
    if factors:
        scale, shift = (factor.view(-1, 1, 1, 1) for factor in factors)
        torch.addcmul(shift, x, scale, out=x)
    return functional.elu_(x)
