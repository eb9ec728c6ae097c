"""Weights of the labels, with which a label map has nearly the volumes of its posteriors.

The sum of a structure's calibrated posteriors is its expected volume. The number of voxels in
which it is the most likely label is another one where borders are uncertain: in slices of 5 mm
cortex is the likelier half of nearly every border, and 1.2 times as large. Of all label maps in
which every structure has its expected volume, the one with the largest expected number of right
voxels takes, in each voxel, the label of the largest posterior times a weight of the label; the
logarithms of the weights are the Lagrange multipliers of the volumes.

The outline of the brain stays as it is: goals are the expected volumes times a common factor, with
which they sum to what the brain has. Weights say how structures share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..hardware.threads import map_in_threads
from ..labels import LESION, mirror_channels
from .postprocess import Box, boxes_in_slab, everywhere, most_likely, slabs

#: Range of the weights, relative to that of background.
LARGEST = 1.5
#: Rounds of the fit, and how much of a volume's logarithmic error each makes up for at first: half
#: as much after every time that the volume has passed its goal.
ROUNDS, STEP = 12, 1.0
#: Relative errors of a volume that are none: without it, weights of structures with sharp borders
#: would change for the sake of rounding errors.
TOLERANCE = 0.02
#: Every n-th plane along two axes shows how volumes differ.
EVERY = 2
#: Voxels added to both volumes, so that a handful of voxels does not decide.
DAMPING = 20.0


@torch.inference_mode()
def label_weights(
    posteriors: Tensor,
    labels: Sequence[int],
    likeliest: tuple[Tensor, Tensor] | None = None,
    boxes: Sequence[Box] | None = None,
) -> Tensor:
    """Return the weight of each channel, with which the largest posterior decides.

    Parameters
    ----------
    posteriors : (n_channels, x, y, z) float tensor
        They sum to 1; channel 0 is background.
    labels : (n_channels,) sequence of int
        Label of each channel. Both sides of a structure have the same weight.
    likeliest : tuple of (x, y, z) tensor, optional
        What :func:`.postprocess.most_likely` returns for them (default: it is computed).
    boxes : sequence of boxes, optional
        From :func:`.postprocess.supports`.

    Returns
    -------
    (n_channels,) float32 tensor
        Between 1 / `LARGEST` and `LARGEST`. Background and lesions have 1: the expected volume
        of lesions is spread over voxels of all the white matter, none of which is likely one.
    """
    n_channels, mirror = len(posteriors), torch.from_numpy(mirror_channels(tuple(labels)))
    log_weights, step = torch.zeros(n_channels), torch.full((n_channels,), STEP)
    if not posteriors.numel():
        return log_weights.exp_()
    boxes = boxes or everywhere(posteriors)
    planes = (slice(None, None, EVERY),) * 2
    best, winner = (one[planes] for one in likeliest or most_likely(posteriors, boxes))
    posteriors = posteriors[(slice(None), *planes)]
    boxes = [(*(_every(part) for part in box[:2]), *box[2:]) for box in boxes]
    surely, first, second, gap = _candidates(posteriors, boxes, best, winner)
    expected = torch.stack([
        channel[box].sum(dtype=torch.float64)
        for channel, box in zip(posteriors, boxes, strict=True)
    ])  # fmt: skip
    free = torch.tensor([label not in (0, LESION) for label in labels])
    bound = torch.where(free, math.log(LARGEST), 0.0)
    before = torch.zeros(n_channels)
    for _ in range(ROUNDS):
        now = torch.where(log_weights[second] - log_weights[first] > gap, second, first)
        volume = (surely + torch.bincount(now, minlength=n_channels)).double()
        goal = expected * (volume[free].sum() / expected[free].sum().clamp(min=1))
        ratio = (goal + goal[mirror] + DAMPING) / (volume + volume[mirror] + DAMPING)
        missing = ratio.log().float()
        missing[missing.abs() < TOLERANCE] = 0
        step[missing * before < 0] /= 2
        log_weights = torch.clamp(log_weights + step * missing, -bound, bound)
        before = missing
    return log_weights.exp_()


def _every(part: slice) -> slice:
    """Return a slice of all planes as one of every n-th plane."""
    return slice(-(-part.start // EVERY), -(-part.stop // EVERY))


def _candidates(
    posteriors: Tensor, boxes: Sequence[Box], best: Tensor, winner: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """List the voxels whose label depends on the weights.

    Returns
    -------
    surely : (n_channels,) int64 tensor
        Number of other voxels in which each channel is the most likely.
    first, second : (n,) int64 tensor
        The two likeliest channels of the voxels.
    gap : (n,) float32 tensor
        Logarithm of the ratio of their posteriors.
    """
    n_channels = len(posteriors)
    # What counts is a second channel with this share of the largest posterior, 1 / n at least.
    share = 1 / LARGEST**2
    second, runner_up = torch.zeros_like(winner), torch.zeros_like(best)

    def compare(rows: slice) -> None:
        every, floor = range(n_channels), 0.99 * share / n_channels
        for channel, box in boxes_in_slab(posteriors, every, boxes, rows, floor):
            probability, highest = posteriors[channel, rows][box], runner_up[rows][box]
            better = (probability > highest) & (winner[rows][box] != channel)
            second[rows][box].masked_fill_(better, channel)
            highest.copy_(torch.where(better, probability, highest))

    map_in_threads(compare, slabs(len(best)))
    chosen = runner_up >= share * best
    first = winner[chosen]
    surely = winner.flatten().bincount(minlength=n_channels)
    surely -= first.bincount(minlength=n_channels)
    return surely, first, second[chosen], (best[chosen] / runner_up[chosen]).log_()
