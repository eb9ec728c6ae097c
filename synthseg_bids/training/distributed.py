"""Train in several processes on one or more computers, started by ``torchrun``.

Every process has the whole network and its own share of each step's samples. Gradients are
averaged over all processes before the optimiser's step, so that all take the same step.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UsageError
from ..hardware.device import resolve_device

#: Timeout for processes that are alive. If a process dies, all end at once.
PATIENCE = timedelta(days=1)


class ProcessError(OSError):
    """The processes of a run cannot go on together."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run; a single one does not communicate.

    Attributes
    ----------
    rank : int
        Number of this process. Process 0 writes the files.
    size : int
        Number of processes.
    device : torch.device
        Device of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network that averages its gradients over all processes."""
        if self.size == 1:
            return network
        # 1x1x1 convolutions have the same memory layout with any strides.
        warnings.filterwarnings('ignore', 'Grad strides do not match bucket view strides')
        return DistributedDataParallel(network)

    def sum(self, values: Tensor) -> Tensor:
        """Sum a CPU tensor over processes."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def mean(self, value: float) -> float:
        """Average a number over processes."""
        if self.size == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float64))) / self.size

    def largest(self, value: int) -> int:
        """Return the largest number over processes."""
        if self.size == 1:
            return value
        values = torch.tensor(value)
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return int(values)

    def copy_first(self, values: Tensor) -> None:
        """Overwrite a tensor with that of the first process."""
        if self.size > 1:
            distributed.broadcast(values, src=0)

    def check_same(self, step: int, network: nn.Module) -> None:
        """Check that all processes are at the same step with identical weights.

        Raises
        ------
        ProcessError
            If they are not.
        """
        if self.size == 1:
            return
        # Sums of integers do not depend on the order of summation.
        bits = [p.detach().view(torch.int32).sum().cpu() for p in network.parameters()]
        mine = torch.stack([torch.tensor(step), *bits])
        largest = torch.stack([mine, -mine])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        if largest.sum(0).any():
            raise ProcessError(
                f'step {step}: the processes of this run have other steps or weights than each '
                'other; all must see the same checkpoint and have the same kind of processor'
            )


def rank_device(name: str | torch.device) -> torch.device:
    """Return the device of this process; several processes on a computer get one GPU each.

    Parameters
    ----------
    name : str or torch.device
        See :func:`~synthseg_bids.hardware.device.resolve_device`.

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError, UsageError
        If it does not exist, or if one GPU is named for several processes.
    """
    device = resolve_device(name)
    if device.type == 'cpu' or _size() == 1:
        return device
    if device.index is not None:
        raise UsageError(
            f'--device {name} with {_size()} processes; use --device cuda, each takes its own GPU'
        )
    return resolve_device(f'cuda:{os.environ["LOCAL_RANK"]}')


@contextmanager
def join(device_name: str | torch.device) -> Iterator[ProcessGroup]:
    """Join the other processes of a run, if ``torchrun`` started several.

    Parameters
    ----------
    device_name : str or torch.device
        See :func:`rank_device`.

    Yields
    ------
    ProcessGroup

    Raises
    ------
    ProcessError
        If another process is lost.
    """
    device = rank_device(device_name)
    if _size() == 1:
        yield ProcessGroup(device=device)
        return
    gpu = device.type == 'cuda'
    if gpu:
        torch.cuda.set_device(device)
    # Gloo for CPU tensors, so that exchanging the state of a run does not wait for a GPU.
    distributed.init_process_group('cpu:gloo,cuda:nccl' if gpu else 'gloo', timeout=PATIENCE)
    ranks = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)
    try:
        yield ranks
        # Wait for the first process, which may still be writing: torchrun ends all processes as
        # soon as one fails.
        ranks.largest(0)
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        reason = str(error).splitlines()[0]
        raise ProcessError(f'another process is lost; see what it says ({reason})') from error
    distributed.destroy_process_group()


def _size() -> int:
    return int(os.environ.get('WORLD_SIZE', 1))


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistBackendError) or 'gloo' in str(error)
