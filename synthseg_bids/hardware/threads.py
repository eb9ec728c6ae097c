"""Compute independent parts of a step side by side, each with one CPU thread.

PyTorch divides every operation among its threads, which wait for each other at its end. Operations
on what fits the caches are so short that two threads then take longer than one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import torch

_Found = TypeVar('_Found')

#: More threads at once take more memory, and gain little: they wait for it.
MAX_THREADS = 8


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that stay until the process ends.

    A thread that ends holds locks of MKL while it gives memory back. A process that is forked just
    then inherits the locks, and waits for them for ever in its first product of matrices.
    """
    return ThreadPoolExecutor(threads, 'part')


# Threads do not survive a fork.
os.register_at_fork(after_in_child=_pool.cache_clear)


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

    pool = _pool(min(threads, MAX_THREADS))
    # Each of them takes over the number when it computes for the first time.
    torch.set_num_threads(1)
    futures: list[Future[_Found]] = []
    try:
        for part in zip(*parts, strict=True):
            futures.append(pool.submit(compute, *part))
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(threads)
