"""Runs of the app on what ``bad_inputs`` makes, and on folders that cannot be used."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from app import APP, Run, call, options, run_here, write_description
from bad_inputs import AWKWARD, GOOD, IMAGES, REFERENCES, noise, save
from running import started

from synthseg_bids.app.main import main


def start(prefix: Sequence[str], argv: Sequence[str], out: Path) -> Run:
    """Run the app in a process of its own."""
    done = subprocess.run([*prefix, *APP, *argv], capture_output=True, text=True, timeout=600)
    return Run(out, done.returncode, done.stdout, done.stderr)


def refuse(argv: Sequence[str], out: Path) -> Run:
    """Run the app in this process; for runs that end before anything is segmented."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main(argv)
    return Run(out, code, stdout.getvalue(), stderr.getvalue())


def unprivileged() -> list[str]:
    """Start a program such that it may not read what permissions forbid, also as root."""
    if os.geteuid():
        return []
    return ['setpriv', '--bounding-set=-dac_override,-dac_read_search',
            '--inh-caps=-dac_override,-dac_read_search']  # fmt: skip


def on_small_disk(folder: Path, size: str) -> list[str]:
    """Start a program that finds a small file system mounted on a folder.

    Nobody else sees it; what is there in the end is copied to the folder itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.with_name(f'{folder.name}.kept')
    script = (
        f'folder=$0 kept=$1; shift; mount -t tmpfs -o size={size} tmpfs "$folder" || exit 99; '
        '"$@"; code=$?; cp -a "$folder" "$kept"; umount "$folder"; cp -a "$kept"/. "$folder"; '
        'exit $code'
    )
    user = ['--map-root-user'] if os.geteuid() else []
    return ['unshare', '--mount', *user, 'sh', '-c', script, str(folder), str(kept)]


def possible(prefix: Sequence[str]) -> bool:
    """Tell whether this machine lets us start a program in such a way."""
    try:
        return not prefix or subprocess.run([*prefix, 'true'], capture_output=True).returncode == 0
    except OSError:
        return False


def elsewhere(folder: Path) -> Path:
    """Return a new folder on another file system, if there is one."""
    memory = Path('/dev/shm')
    if memory.is_dir() and os.access(memory, os.W_OK):
        return memory / f'synthseg-bids-{os.getpid()}-{time.monotonic_ns()}'
    return folder / 'work'


def run_images(folder: Path, model: Path) -> Run:
    """Segment all bad images and some good ones at once.

    The data set has an awkward name, the outputs lie inside of it, and intermediate files on
    another file system.
    """
    raw = folder / AWKWARD
    out = raw / 'derivatives' / 'synthseg-bids'
    write_description(raw, 'Bad inputs')
    for number, name in enumerate(GOOD):
        save(raw / name, noise(seed=number))
    for image in IMAGES:
        path = raw / os.fsdecode(image.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.make(path)
    references = []
    for reference in REFERENCES:
        path = folder / reference.dataset / 'sub-01/anat/sub-01_desc-T1w_dseg.nii.gz'
        path.parent.mkdir(parents=True)
        reference.make(path)
        references.append(f'{reference.dataset}={folder / reference.dataset}')
    work = elsewhere(folder)
    argv = options(raw, out, model, '-w', work, '-d', *references)
    prefix = unprivileged()
    try:
        return start(prefix if possible(prefix) else [], argv, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def dataset(folder: Path, shape: tuple[int, ...] = (10, 11, 12)) -> Path:
    """Make a data set of one good image, or of two if the second is to be of another shape."""
    raw = folder / 'raw'
    write_description(raw, 'Bad inputs')
    save(raw / GOOD[0], noise())
    if shape != (10, 11, 12):
        save(raw / GOOD[1], noise(shape))
    return raw


@dataclass(frozen=True)
class BadRun:
    """A run that cannot succeed, or only in part.

    Attributes
    ----------
    what : str
        What is wrong.
    code : int
        Exit code.
    says : str
        Part of the one line on the terminal.
    arrange : function of a folder
        Makes what is there before, returns input, output and options.
    prefix : function of the output folder
        How the app is started if it does not end before anything is segmented.
    damage : function of the output folder
        What becomes of the outputs of a good run before the level group makes tables of them.
    """

    what: str
    code: int
    says: str
    arrange: Callable[[Path], tuple[Path, Path, list[object]]]
    prefix: Callable[[Path], list[str]] | None = None
    damage: Callable[[Path], object] | None = None

    def launch(self, folder: Path, model: Path) -> Run:
        """Run it in an empty folder."""
        raw, out, more = self.arrange(folder)
        argv = options(raw, out, model, '-w', folder / 'work', *more)
        if self.damage:
            run_here(raw, out, model, '-w', folder / 'work', *more)
            self.damage(out)
            return call([str(raw), str(out), 'group'], out)
        return refuse(argv, out) if self.prefix is None else start(self.prefix(out), argv, out)


def _out(make: Callable[[Path], object]) -> Callable[[Path], tuple[Path, Path, list[object]]]:
    """Arrange a good data set and something in place of the output folder."""

    def arrange(folder: Path) -> tuple[Path, Path, list[object]]:
        out = folder / 'out'
        make(out)
        return dataset(folder), out, []

    return arrange


def _raw(make: Callable[[Path], object]) -> Callable[[Path], tuple[Path, Path, list[object]]]:
    """Arrange something in place of the data set."""

    def arrange(folder: Path) -> tuple[Path, Path, list[object]]:
        raw = folder / 'raw'
        make(raw)
        return raw, folder / 'out', []

    return arrange


def _options(
    *makers: Callable[[Path], object],
) -> Callable[[Path], tuple[Path, Path, list[object]]]:
    """Arrange a good data set; options may depend on the folder."""

    def arrange(folder: Path) -> tuple[Path, Path, list[object]]:
        return dataset(folder), folder / 'out', [make(folder) for make in makers]

    return arrange


def _text(name: str, content: bytes) -> Callable[[Path], tuple[Path, Path, list[object]]]:
    """Arrange a good data set with a text file in it."""

    def arrange(folder: Path) -> tuple[Path, Path, list[object]]:
        raw = dataset(folder)
        (raw / name).write_bytes(content)
        return raw, folder / 'out', []

    return arrange


def _only_4d(raw: Path) -> None:
    write_description(raw, 'Bad inputs')
    save(raw / GOOD[0], noise((10, 11, 12, 3)))


def _cut(ending: str) -> Callable[[Path], object]:
    """Cut the only output with some ending to half of its length."""

    def damage(out: Path) -> None:
        (path,) = out.glob(f'sub-*/anat/*{ending}')
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def _without_shared_memory(out: Path) -> list[str]:
    """Start a program that may not write to /dev/shm, as in containers that are closed up."""
    user = ['--map-root-user'] if os.geteuid() else []
    script = 'mount -t tmpfs -o ro tmpfs /dev/shm || exit 99; exec "$0" "$@"'
    return ['unshare', '--mount', *user, 'sh', '-c', script]


def _foreign(out: Path) -> None:
    out.mkdir()
    description = '{"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fMRIPrep"}]}'
    (out / 'dataset_description.json').write_text(description)


def _closed(folder: Path) -> Path:
    path = folder / 'closed'
    path.mkdir(mode=0o500)
    return path


RUNS = (
    BadRun('a folder that does not exist', 3, 'No such file', _raw(lambda raw: None)),
    BadRun('a file in place of a folder', 3, 'Not a directory', _raw(lambda raw: raw.touch())),
    BadRun('a folder that is not BIDS', 3, 'no sub-* folder', _raw(lambda raw: raw.mkdir())),
    BadRun(
        'no images',
        2,
        'no image matched',
        _raw(lambda raw: save(raw / 'sub-01/func/sub-01_bold.nii.gz', noise())),
    ),
    BadRun('no image that is 3D', 2, 'no image is left to segment', _raw(_only_4d)),
    BadRun(
        'rules that are no text',
        2,
        '.bidsignore',
        _text('.bidsignore', b'sub-\xe9t\xe9/\n'),
    ),
    BadRun(
        'a description that is no text',
        2,
        'dataset_description.json',
        _text('dataset_description.json', b'["a list"]'),
    ),
    BadRun(
        'memory that does not suffice',
        2,
        'give at least',
        _options(lambda folder: '--mem-gb', lambda folder: '0.01'),
    ),
    BadRun(
        'no shared memory for several processes',
        2,
        '/dev/shm',
        lambda folder: (dataset(folder), folder / 'out', []),
        _without_shared_memory,
    ),
    BadRun(
        'a label map cut short, then group',
        1,
        'dseg.nii.gz has',
        lambda folder: (dataset(folder), folder / 'out', []),
        damage=_cut('_dseg.nii.gz'),
    ),
    BadRun(
        'a table cut short, then group',
        1,
        'morph.tsv has',
        lambda folder: (dataset(folder), folder / 'out', []),
        damage=_cut('_morph.tsv'),
    ),
    BadRun(
        'output is the input',
        2,
        'is the dataset itself',
        lambda folder: (dataset(folder), folder / 'raw', []),
    ),
    BadRun(
        'output in a subject of the input',
        2,
        'lies in',
        lambda folder: (dataset(folder), folder / 'raw' / 'sub-01' / 'out', []),
    ),
    BadRun('output is a file', 2, 'choose another folder', _out(lambda out: out.touch())),
    BadRun('output of another program', 2, 'holds another dataset', _out(_foreign)),
    BadRun(
        'output that cannot be written',
        2,
        'Permission denied',
        lambda folder: (dataset(folder), _closed(folder) / 'out', []),
        lambda out: unprivileged(),
    ),
    BadRun(
        'work folder in the input',
        2,
        'lies in the dataset',
        _options(lambda folder: '-w', lambda folder: folder / 'raw' / 'work'),
    ),
    BadRun(
        'work folder that cannot be written',
        2,
        'Permission denied',
        _options(lambda folder: '-w', lambda folder: _closed(folder) / 'work'),
        lambda out: unprivileged(),
    ),
    BadRun(
        'references that do not exist',
        2,
        'no such folder',
        _options(lambda folder: '-d', lambda folder: f'fs={folder / "fs"}'),
    ),
    BadRun(
        'disk full from the start',
        1,
        'No space left on device',
        lambda folder: (dataset(folder), folder / 'out', []),
        lambda out: on_small_disk(out, '4k'),
    ),
    BadRun(
        'disk full on the way',
        1,
        'No space left on device',
        lambda folder: (dataset(folder, (60, 60, 60)), folder / 'out', ['--posteriors', 'native']),
        lambda out: on_small_disk(out, '450k'),
    ),
    BadRun(
        'disk of the work folder full',
        1,
        'No space left on device',
        lambda folder: (dataset(folder, (60, 60, 60)), folder / 'out', ['--posteriors', 'native']),
        lambda out: on_small_disk(out.parent / 'work', '300k'),
    ),
)


def run_twice(folder: Path, model: Path) -> list[Run]:
    """Start a second run like the first while the first one is at work."""
    dataset(folder)
    with started(folder, model, pause=f'{GOOD[0]}: started') as first:
        first.wait_for_pause()
        # The first cannot end before the second has met it.
        with started(folder, model, pause='another run') as second:
            second.wait_for_pause()
            for run in (first, second):
                run.resume()
            return [first.end(), second.end()]


def run_all(folder: Path, model: Path) -> tuple[Run, dict[str, Run]]:
    """Run everything whose line is to be seen, two at a time, as far as the machine lets us.

    Returns
    -------
    images : Run
        What the run over all bad images printed.
    runs : dict of str to Run
        What the other runs printed, by what is wrong with them.
    """
    folders = {run.what: folder / str(number) for number, run in enumerate(RUNS)}
    for path in [folder / 'images', *folders.values()]:
        path.mkdir()
    with ThreadPoolExecutor(2) as pool:
        images = pool.submit(run_images, folder / 'images', model)
        started = {
            run.what: pool.submit(run.launch, folders[run.what], model)
            for run in RUNS
            if run.prefix and possible(run.prefix(folders[run.what] / 'probe'))
        }
    # In this process, whose standard output is diverted meanwhile.
    runs = {run.what: run.launch(folders[run.what], model) for run in RUNS if not run.prefix}
    return images.result(), runs | {what: future.result() for what, future in started.items()}
