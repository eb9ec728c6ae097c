"""Training in several processes, on one computer or many, as ``torchrun`` starts them.

Every process has the whole network and its own share of each step's samples. Gradients are
averaged over all processes before the optimiser sees them, so that all make the same step.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UsageError
from ..hardware.device import resolve_device

#: How long a process waits for another that is alive. One that dies ends all at once.
PATIENCE = timedelta(days=1)


class ProcessError(OSError):
    """The processes of a run cannot go on together."""


@dataclass(frozen=True)
class ProcessGroup:
    """The place of this process in a run; alone, nothing is exchanged or waited for.

    Attributes
    ----------
    rank : int
        Number of this process. Files are written by the first, 0.
    size : int
        Number of processes.
    device : torch.device
        Of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network that averages its gradients over all processes."""
        if self.size == 1:
            return network
        # Convolutions of a single voxel are stored alike whatever their strides say.
        warnings.filterwarnings('ignore', 'Grad strides do not match bucket view strides')
        return DistributedDataParallel(network)

    def sum(self, values: Tensor) -> Tensor:
        """Add up a CPU tensor of each process."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def mean(self, value: float) -> float:
        """Average a number of each process."""
        if self.size == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float64))) / self.size

    def largest(self, value: int) -> int:
        """Return the largest of the numbers that the processes have."""
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
        """Make sure that all processes are at one step with the same weights, to the bit.

        Raises
        ------
        ProcessError
            If they are not.
        """
        if self.size == 1:
            return
        # Integers, so that the order of summation does not matter.
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
    """Return the device of this process: with several on a computer, each has its own GPU.

    Parameters
    ----------
    name : str or torch.device
        As for :func:`~synthseg_bids.hardware.device.resolve_device`.

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
    # What is exchanged about a run is on the CPU, and never waits for a GPU.
    distributed.init_process_group('cpu:gloo,cuda:nccl' if gpu else 'gloo', timeout=PATIENCE)
    ranks = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)
    try:
        yield ranks
        # torchrun ends all as soon as one has ended in another way than with success; the first
        # may still be writing.
        ranks.largest(0)
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        reason = str(error).splitlines()[0]
        raise ProcessError(f'another process is lost; see what it says ({reason})') from error
    distributed.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End a process that has joined others, without Python's clean-up.

    In that, threads of PyTorch that are still there abort about one process in twenty, after all
    is done and written (seen with PyTorch 2.13 and Gloo).

    Parameters
    ----------
    code : int
        Exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _size() -> int:
    return int(os.environ.get('WORLD_SIZE', 1))


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistBackendError) or 'gloo' in str(error)
