"""Runs of the app on two images, one after the other, that faults are done to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from app import APP, Run, options, write_description, write_image
from watch import is_stopped, wait_until

IMAGES = ('sub-01/anat/sub-01_T1w.nii.gz', 'sub-02/anat/sub-02_T2w.nii.gz')
FIRST_STARTED = f'{IMAGES[0]}: started'
#: A worker has taken them up.
FIRST_AT_WORK, SECOND_AT_WORK = 'sub-01_T1w.segment" in', 'sub-02_T2w.segment" in'
FIRST_DONE = 'done (1 of 2 images)'
PAUSING = [sys.executable, '-W', 'ignore', str(Path(__file__).parents[1] / 'stand_ins/pausing.py')]


def make_dataset(folder: Path) -> Path:
    """Make two images, that are segmented one after the other."""
    write_description(folder / 'raw', 'Toy')
    for seed, name in enumerate(IMAGES):
        write_image(folder / 'raw' / name, seed=seed)
    return folder / 'raw'


class Running:
    """A run of the app that has been started."""

    def __init__(self, folder: Path, model: Path, prefix: Sequence[str], pause: str) -> None:
        self.out = folder / 'out'
        stem = f'run-{len(list(folder.glob("run-*.stdout")))}'
        self._streams = folder / f'{stem}.stdout', folder / f'{stem}.stderr'
        app = [*PAUSING, pause] if pause else APP
        argv = options(folder / 'raw', self.out, model, '--nprocs', 1, '-w', folder / 'work')
        with self._streams[0].open('w') as stdout, self._streams[1].open('w') as stderr:
            self.process = subprocess.Popen(
                [*prefix, *app, *argv], stdout=stdout, stderr=stderr, start_new_session=True,
                # Shells start what runs in the background deaf to it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        self.pid = self.process.pid

    def wait_for_pause(self) -> None:
        """Wait until it has stopped, with all its processes, where it was told to."""
        wait_until(lambda: is_stopped(self.pid) or self.process.poll() is not None)
        assert self.process.returncode is None, self._streams[1].read_text()

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self.pid, number)

    def end(self) -> Run:
        code = self.process.wait(600)
        stdout, stderr = (path.read_text() for path in self._streams)
        return Run(self.out, code, stdout, stderr)


@contextmanager
def started(folder: Path, model: Path, prefix: Sequence[str] = (), pause: str = ''):
    """Start a run, which stops once it says certain words; kill it if it is there in the end."""
    running = Running(folder, model, prefix, pause)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.send(signal.SIGKILL)
            running.process.wait()
