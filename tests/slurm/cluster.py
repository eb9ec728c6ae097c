"""What the tests ask Slurm, and do to its jobs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import watch


def ask(*command: object) -> str:
    """Return what a program of Slurm prints."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    return done.stdout


def jobs() -> dict[int, tuple[str, str]]:
    """List all jobs that Slurm still knows: name and state by number."""
    lines = ask('squeue', '--all', '--states=all', '--noheader', '--format=%A %T %j').splitlines()
    return {int(line.split()[0]): (line.split()[2], line.split()[1]) for line in lines}


def fields(job: object) -> dict[str, str]:
    """Return what ``scontrol show job`` tells."""
    return dict(re.findall(r'(\S+?)=(\S*)', ask('scontrol', 'show', 'job', job)))


def wait_for_job(name: str, after: int, state: str = 'RUNNING') -> int:
    """Wait until a job whose name begins in a way, and that is newer than another, has a state."""

    def found() -> list[int]:
        known = jobs().items()
        return [n for n, (is_named, is_now) in known
                if n > after and is_named.startswith(name) and is_now == state]  # fmt: skip

    return watch.wait_until(found, every_s=0.2, tell=jobs)[0]


def cancel(job: object) -> None:
    ask('scancel', job)


def kill(job: int) -> None:
    """Kill all processes of a job, as the kernel does when memory runs out."""
    # A job that is said to run may not have any yet.
    wait_until(lambda: _kill_processes(f'SLURM_JOB_ID={job}\0'.encode()))


def _kill_processes(marker: bytes) -> int:
    killed = 0
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            if marker in (folder / 'environ').read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
        except OSError:  # not ours, or gone by now
            continue
    return killed


def end_time(job: int) -> None:
    """Let the time limit of a job be reached at once."""
    ask('scontrol', 'update', f'JobId={job}', 'EndTime=now')


def last_job() -> int:
    return max(jobs(), default=0)


def wait_until(condition: Callable[[], object], timeout_s: float = 400) -> None:
    watch.wait_until(condition, timeout_s, every_s=0.5, tell=jobs)
