"""Compute independent parts of a step side by side, each with one CPU thread.

PyTorch divides every operation among its threads, which wait for each other at its end. Operations
on what fits the caches are so short that two threads then take longer than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

_Found = TypeVar('_Found')

#: More threads at once take more memory, and gain little: they wait for it.
MAX_THREADS = 8


def map_in_threads(function: Callable[..., _Found], *parts: Iterable[Any]) -> list[_Found]:
    """Apply a function to parts, as many at once as PyTorch has threads, up to `MAX_THREADS`.

    Parameters
    ----------
    function : callable
        Computes with PyTorch or NumPy on the CPU. It must not write where other parts are read or
        written. Calls inside of it compute one part after the other.
    *parts : iterables of the same length
        Arguments of the function, as for :func:`map`.

    Returns
    -------
    list
        What the function returns for each part, in their order; it does not depend on the number
        of threads.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    if threads == 1:
        return list(map(function, *parts))

    def compute(*part: Any) -> _Found:
        # Every thread has a mode of its own.
        with torch.inference_mode(inference):
            return function(*part)

    # New threads take over the number from this one.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, MAX_THREADS)) as pool:
            return list(pool.map(compute, *parts))
    finally:
        torch.set_num_threads(threads)
