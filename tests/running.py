"""Runs of the app on two images, one after the other, that faults are done to."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from app import APP, Run, options, write_description, write_image

IMAGES = ('sub-01/anat/sub-01_T1w.nii.gz', 'sub-02/anat/sub-02_T2w.nii.gz')
FIRST_DONE = 'done (1 of 2 images)'


def make_dataset(folder: Path) -> Path:
    """Make two images, that are segmented one after the other."""
    write_description(folder / 'raw', 'Toy')
    for seed, name in enumerate(IMAGES):
        write_image(folder / 'raw' / name, seed=seed)
    return folder / 'raw'


class Running:
    """A run of the app that has been started, and what it has said so far."""

    def __init__(self, folder: Path, model: Path, prefix: Sequence[str]) -> None:
        self.out = folder / 'out'
        self._streams = folder / 'stdout.txt', folder / 'stderr.txt'
        argv = options(folder / 'raw', self.out, model, '--nprocs', 1, '-w', folder / 'work')
        with self._streams[0].open('w') as stdout, self._streams[1].open('w') as stderr:
            self.process = subprocess.Popen(
                [*prefix, *APP, *argv], stdout=stdout, stderr=stderr, start_new_session=True,
                # Shells start what runs in the background deaf to it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        self.pid = self.process.pid

    def wait_for(self, words: str) -> None:
        """Wait until something was said."""
        end = time.monotonic() + 400
        while words not in self._streams[1].read_text() and self.process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.02)

    def end(self) -> Run:
        code = self.process.wait(600)
        stdout, stderr = (path.read_text() for path in self._streams)
        return Run(self.out, code, stdout, stderr)


@contextmanager
def started(folder: Path, model: Path, prefix: Sequence[str] = ()):
    running = Running(folder, model, prefix)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
