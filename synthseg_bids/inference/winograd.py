"""Winograd convolution and ELU in bfloat16 on the CPU, faster than PyTorch's own.

Along an axis, a convolution with three weights computes two neighbouring outputs from four inputs
with six products; Winograd's algorithm needs four. It is applied along x: each of the four
products is a 2D convolution of planes. Inputs are rounded once more than in a plain convolution;
sums are in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Values per thread in one activation step: about what the caches hold.
ELU_VALUES = 2**17
#: Values of the planes in one convolution step, for the same reason.
SLAB_VALUES = 2**21
#: Least number of features for which the saved products outweigh the transforms.
MIN_FEATURES = 24

LOG2_E = math.log2(math.e)


def channels_last(x: Tensor) -> Tensor:
    """Make the features of a voxel adjacent in memory."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def elu_(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Apply ELU to ``(1, features, x, y, z)`` in place; it must be in channels-last layout.

    Parameters
    ----------
    x : (1, n_features, x, y, z) bfloat16 tensor
    scale, shift : (n_features,) float32 tensor, optional
        Multiply by `scale` and add `shift` first.
    """
    voxels = x.movedim(1, -1).view(-1, x.shape[1])
    length = min(ELU_VALUES * torch.get_num_threads() // x.shape[1] + 1, len(voxels))
    buffers = torch.empty(2, length, x.shape[1])
    for part in voxels.split(length):
        wide, work = buffers[:, : len(part)]
        wide.copy_(part)
        if scale is not None and shift is not None:
            wide.mul_(scale).add_(shift)
        part.copy_(_elu_float_(wide, work))
    return x


def _elu_float_(x: Tensor, work: Tensor) -> Tensor:
    # Twice as fast as PyTorch's expm1, which is exact to the last digit of float32.
    torch.clamp_max(x, 0, out=work).mul_(LOG2_E).exp2_().sub_(1)
    return torch.maximum(x, work, out=x)


class WinogradConv3d(nn.Module):
    """A 3x3x3 convolution with padding of an image with an even number of planes along x.

    Parameters
    ----------
    weight : (n_out, n_in, 3, 3, 3) float32 tensor
    bias : (n_out,) float32 tensor, optional
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        before, here, after = weight.unbind(2)
        kernels = (before, (before + here + after) / 2, (before - here + after) / 2, after)
        self._kernels = [
            kernel.to(torch.bfloat16, memory_format=torch.channels_last) for kernel in kernels
        ]
        self._bias = None if bias is None else bias.to(torch.bfloat16)

    def forward(self, x: Tensor, elu: bool = False) -> Tensor:
        """Convolve ``(1, n_in, x, y, z)``, and apply ELU if asked for.

        Returns
        -------
        (1, n_out, x, y, z) tensor
            In channels-last layout.
        """
        planes = channels_last(x)[0].movedim(0, -1)
        n_planes, n_out = len(planes), len(self._kernels[0])
        result = planes.new_empty(*planes.shape[:3], n_out)
        pairs = max(1, SLAB_VALUES // planes[:2].numel())
        inputs = planes.new_empty(4, pairs, *planes.shape[1:])
        sums = torch.empty(3, pairs, *result.shape[1:])
        for first in range(0, n_planes, 2 * pairs):
            slab = slice(first, min(first + 2 * pairs, n_planes))
            n = (slab.stop - first) // 2
            _transform(planes, slab, inputs[:, :n])
            self._combine(inputs[:, :n], sums[:, :n])
            for parity in (0, 1):
                found = sums[parity, :n]
                if elu:
                    _elu_float_(found, sums[2, :n])
                result[first + parity : slab.stop : 2].copy_(found)
        return result.movedim(-1, 0)[None]

    def _combine(self, inputs: Tensor, sums: Tensor) -> None:
        """Write even and odd planes of the result into the first two of three buffers."""
        products = [
            functional.conv2d(part.movedim(-1, 1), kernel, bias, padding=1).movedim(1, -1)
            # Both sums contain the second product once, and with it the bias.
            for part, kernel, bias in zip(
                inputs, self._kernels, (None, self._bias, None, None), strict=True
            )
        ]
        even, odd, work = sums
        even.copy_(products[1])
        work.copy_(products[2])
        torch.sub(even, work, out=odd)
        even.add_(work)
        even.add_(work.copy_(products[0]))
        odd.sub_(work.copy_(products[3]))


def _transform(planes: Tensor, slab: slice, out: Tensor) -> None:
    """Write the inputs of the four kernels: of planes a, b, c, d, a - c, b + c, c - b and b - d.

    b and c are the pairs of planes in the slab; planes outside the image are 0.
    """
    b, c = planes[slab][::2], planes[slab][1::2]
    a = planes[slab.start - 1 if slab.start else 1 : slab.stop - 2 : 2]
    d = planes[slab.start + 2 : slab.stop + 1 : 2]
    torch.neg(c, out=out[0])
    out[0, len(c) - len(a) :] += a
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    out[3].copy_(b)
    out[3, : len(d)] -= d
