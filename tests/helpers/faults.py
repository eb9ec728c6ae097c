"""Faults that a run may meet, how the tests bring each about, and what becomes of the run."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app import Run, run_here
from running import FIRST_AT_WORK, FIRST_DONE, FIRST_STARTED, IMAGES, SECOND_AT_WORK, started
from watch import wait_for_end, wait_for_worker


def _kill_worker(folder: Path, model: Path, times: int) -> Run:
    with started(folder, model, pause=FIRST_AT_WORK) as running:
        for number in range(2):  # its first try, and the second one
            running.wait_for_pause()
            if number < times:
                os.kill(wait_for_worker(running.pid), signal.SIGKILL)
            running.resume()
        return running.end()


def kill_worker(folder: Path, model: Path) -> Run:
    return _kill_worker(folder, model, 1)


def kill_worker_twice(folder: Path, model: Path) -> Run:
    return _kill_worker(folder, model, 2)


def kill_everything(folder: Path, model: Path) -> Run:
    with started(folder, model, pause=FIRST_DONE) as running:
        running.wait_for_pause()
        running.send(signal.SIGKILL)
        return running.end()


def kill_main(folder: Path, model: Path) -> Run:
    with started(folder, model, pause=FIRST_DONE) as running:
        running.wait_for_pause()
        worker = wait_for_worker(running.pid)
        os.kill(running.pid, signal.SIGKILL)
        running.resume()
        wait_for_end(worker)
        # Locks are on files, which stay; a lock itself ends with its process.
        assert (running.out / 'logs/.participants.lock').exists()
        return running.end()


def _signal(number: signal.Signals) -> Callable[[Path, Path], Run]:
    def send(folder: Path, model: Path) -> Run:
        with started(folder, model, pause=FIRST_DONE) as running:
            running.wait_for_pause()
            worker = wait_for_worker(running.pid)
            running.process.send_signal(number)
            running.resume()
            run = running.end()
            wait_for_end(worker)
            return run

    return send


def _fill(place: str) -> Callable[[Path, Path], Run]:
    """Run on a small disk, which something else fills when the second image is at work.

    The run stands still meanwhile: it could be over before. The disk is in a mount namespace of
    its own; what is there in the end is copied to the folder itself.
    """

    def run(folder: Path, model: Path) -> Run:
        disk, kept = folder / place, folder / 'kept'
        disk.mkdir()
        script = (
            f'mount -t tmpfs -o size=8m tmpfs {disk} || exit 99\n'
            f'touch {disk}/others; "$@"; code=$?; rm {disk}/others\n'
            f'cp -a {disk} {kept}; umount -l {disk}; cp -a {kept}/. {disk}; exit $code'
        )
        prefix = [*in_own_mounts(), 'sh', '-c', script, 'sh']
        with started(folder, model, prefix, pause=SECOND_AT_WORK) as running:
            running.wait_for_pause()
            _take_all(Path(f'/proc/{running.pid}/root{disk}/others'))
            running.resume()
            return running.end()

    return run


def _take_all(path: Path) -> None:
    """Let a file grow until its disk is full."""
    with suppress(OSError), path.open('ab', buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def in_own_mounts() -> list[str]:
    """Start a program that may mount what nobody else sees."""
    return ['unshare', '--mount', *(['--map-root-user'] if os.geteuid() else [])]


def read_only(folder: Path, model: Path) -> Run:
    out = shlex.quote(str(folder / 'out'))
    script = f'mkdir {out} && mount --bind {out} {out} && mount -o remount,ro,bind {out} && "$@"'
    with started(folder, model, [*in_own_mounts(), 'sh', '-c', script, 'sh']) as running:
        return running.end()


def remove_input(folder: Path, model: Path) -> Run:
    image = folder / 'raw' / IMAGES[1]
    with started(folder, model, pause=FIRST_STARTED) as running:
        running.wait_for_pause()
        image.rename(folder / 'elsewhere.nii.gz')
        running.resume()
        run = running.end()
    (folder / 'elsewhere.nii.gz').rename(image)
    return run


def _damaged(damage: Callable[[Path], object]) -> Callable[[Path, Path], Run]:
    def run(folder: Path, model: Path) -> Run:
        for suffix in ('.safetensors', '.json'):
            shutil.copy(model.with_suffix(suffix), folder / f'model{suffix}')
        damage(folder / 'model.safetensors')
        return _run_both(folder, folder / 'model.safetensors')

    return run


def _cut(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:2000])


def _change_byte(model: Path) -> None:
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)


def _run_both(folder: Path, model: Path) -> Run:
    """Run on both images; for faults that no other process has a part in."""
    return run_here(folder / 'raw', folder / 'out', model, '-w', folder / 'work')


def skew_clocks(folder: Path, model: Path) -> Run:
    """Run twice; in between, date all images a day ahead and all outputs a year back."""
    _run_both(folder, model)
    now = time.time()
    for place, when in (('raw', now + 86400), ('out', now - 365 * 86400)):
        for path in (folder / place).rglob('*'):
            os.utime(path, (when, when))
    return _run_both(folder, model)


@dataclass(frozen=True)
class Observed:
    """A fault, and what becomes of a run that meets it.

    Attributes
    ----------
    what : str
        What goes wrong.
    how : str
        How the test makes it happen.
    code : int or str
        Exit code; the negative number of a signal that kills the main process; the state of a
        job whose exit code is a matter of chance.
    last : str
        Last line on stdout; empty if there is none.
    says : str
        Part of a line on the terminal; empty if there is nobody left to say anything.
    again : str
        Last line of the next run, on stdout.
    """

    what: str
    how: str
    code: int | str
    last: str
    says: str
    again: str

    def check(self, run: Run) -> None:
        """Compare it with what has become of a run."""
        assert (run.code, (run.stdout.splitlines() or [''])[-1]) == (self.code, self.last)
        assert any(self.says in line for line in run.stderr.splitlines())
        assert 'Traceback' not in run.stderr

    def check_next(self, run: Run) -> None:
        """Compare it with the next run, which completes."""
        assert (run.code, run.stdout) == (0, f'{self.again}\n'), run.stderr


@dataclass(frozen=True)
class Fault(Observed):
    """A fault of a run of two images.

    Attributes
    ----------
    inflict : function of a folder with a dataset and a model
    mounts : bool
        Whether something must be mounted for it.
    """

    inflict: Callable[[Path, Path], Run]
    mounts: bool = False


NEITHER, SECOND, NOTHING = (f'{n} done, {2 - n} skipped, 0 failed' for n in (2, 1, 0))
HALF = '1 done, 0 skipped, 1 failed'

FAULTS = (
    Fault(
        'worker killed',
        '``kill -9`` of the worker that segments the first image',
        0,
        NEITHER,
        'its worker process was killed (out of memory, or by a signal); again',
        NOTHING,
        kill_worker,
    ),
    Fault(
        'worker killed twice',
        'the same, and once more at the second try',
        1,
        HALF,
        'its worker process was killed twice (out of memory, or by a signal)',
        SECOND,
        kill_worker_twice,
    ),
    Fault(
        'main process killed, its lock files left behind',
        '``kill -9`` when the first of two images is done; its workers end by themselves',
        -signal.SIGKILL,
        '',
        '',
        SECOND,
        kill_main,
    ),
    Fault(
        'all processes killed',
        '``kill -9`` of all processes when the first image is done',
        -signal.SIGKILL,
        '',
        '',
        SECOND,
        kill_everything,
    ),
    Fault(
        'terminated',
        'SIGTERM when the first image is done',
        143,
        '',
        'terminated; the same command resumes',
        SECOND,
        _signal(signal.SIGTERM),
    ),
    Fault(
        'interrupted',
        'SIGINT when the first image is done',
        130,
        '',
        'interrupted; the same command resumes',
        SECOND,
        _signal(signal.SIGINT),
    ),
    Fault(
        'disk of the outputs full',
        'somebody else fills it while the second image is segmented',
        1,
        '',
        'No space left on device; free some space',
        SECOND,
        _fill('out'),
        mounts=True,
    ),
    Fault(
        'disk of the working directory full',
        'somebody else fills it while the second image is segmented',
        1,
        HALF,
        'No space left on device; free some space',
        SECOND,
        _fill('work'),
        mounts=True,
    ),
    Fault(
        'output that can only be read',
        'a file system that is mounted read-only',
        2,
        '',
        'Read-only file system; mount it writable or choose another folder',
        NEITHER,
        read_only,
        mounts=True,
    ),
    Fault(
        'input vanishes',
        'the second image is moved away while the first one is segmented',
        1,
        HALF,
        'No such file any more; put it back',
        SECOND,
        remove_input,
    ),
    Fault(
        'model that cannot be read',
        'a file cut after 2,000 bytes',
        2,
        '',
        'checksum differs from its card; copy the file again',
        NEITHER,
        _damaged(_cut),
    ),
    Fault(
        'model with a wrong checksum',
        'one bit of its last byte is changed',
        2,
        '',
        'checksum differs from its card; copy the file again',
        NEITHER,
        _damaged(_change_byte),
    ),
    Fault(
        'clocks that disagree',
        'after a run, all images are dated a day ahead and all outputs a year back',
        0,
        NOTHING,
        'nothing to do: 2 images are up to date',
        NOTHING,
        skew_clocks,
    ),
)
