"""Run a program and measure what it and all its descendants use; for Linux."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_INTERVAL_S = 0.1


@dataclass
class Usage:
    """Resources that a program used.

    Attributes
    ----------
    code : int
        Exit code.
    stdout, stderr : str
    seconds : float
        Wall time.
    cpu_seconds : float
        Processor time of the program and all its descendants.
    peak_mb : float
        Most memory of the program itself, without its descendants.
    open_files : int
        Most file handles of the program itself. Both are looked at ten times a second.
    load : float
        Load average of the machine at the end.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    open_files: int
    load: float


def watch(command: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a program, and wait for all its descendants too."""
    # Descendants whose parents end before them become our children, whose times we are told.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before, start = _children_cpu(), time.monotonic()
    peak_bytes = open_files = 0
    with (
        os.fdopen(os.memfd_create('stdout'), 'w+b') as stdout,
        os.fdopen(os.memfd_create('stderr'), 'w+b') as stderr,
    ):
        for stream in (stdout, stderr):
            # Descendants that write at the same moment do not overwrite each other.
            fcntl.fcntl(stream, fcntl.F_SETFL, os.O_APPEND)
        process = psutil.Popen(
            command, env=environment, stdout=stdout, stderr=stderr, start_new_session=True
        )
        while process.poll() is None:
            with suppress(psutil.Error):
                peak_bytes = max(peak_bytes, process.memory_info().rss)
                open_files = max(open_files, process.num_fds())
            time.sleep(_INTERVAL_S)
        seconds = time.monotonic() - start
        _wait_for_group(process.pid)
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode(errors='replace'))
    cpu = _children_cpu() - before
    load = os.getloadavg()[0]
    return Usage(process.returncode, *texts, seconds, cpu, peak_bytes / 2**20, open_files, load)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait_for_group(leader: int) -> None:
    # Not for all children: others, of whoever calls this, may not end before it does.
    while True:
        try:
            os.waitpid(-leader, 0)
        except ChildProcessError:
            return
