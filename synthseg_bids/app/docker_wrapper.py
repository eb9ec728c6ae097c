"""Run the BIDS App in a container: takes its options, and mounts what they name."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthseg_bids import __version__
from synthseg_bids.errors import UsageError, explain_error

from .parser import build_parser, read_options, write_options
from .plan import default_work_dir

PROG = 'synthseg-bids-docker'
#: What ``make docker`` builds.
IMAGE = f'synthseg-bids:{__version__}'
ENGINES = ('docker', 'podman')
#: What one segmentation takes at most.
NEEDED_GB = 4.0
EXIT_USAGE = 2

#: Options that name folders which are written to.
WRITTEN = ('output_dir', 'work_dir', 'bids_database_dir')
#: Folders of the image that a mount would hide.
_OF_THE_IMAGE = ('/opt/synthseg-bids', '/usr/bin', '/usr/lib', '/usr/local/bin', '/usr/local/lib')
_OF_THE_SYSTEM = ('/bin', '/dev', '/etc', '/lib', '/lib64', '/proc', '/sys', '/tmp')
#: How each engine is told to hand over all GPUs.
_GPU_OPTIONS = {'docker': ['--gpus', 'all'], 'podman': ['--device', 'nvidia.com/gpu=all']}


class ContainerError(UsageError):
    """No container can be started; the message is one line that says why."""


@dataclass(frozen=True)
class Engine:
    """What runs containers.

    Attributes
    ----------
    name : str
        ``docker`` or ``podman``.
    memory_gb : float
        Memory of the machine that runs the containers, which may be a virtual one.
    rootless : bool
        Whether root in a container is the user outside of it.
    """

    name: str
    memory_gb: float
    rootless: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Become the container engine, or say why not.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    int
        2 if no container can be started; else this process is replaced by one whose exit code is
        that of ``synthseg-bids``.
    """
    parser = build_parser(PROG)
    group = parser.add_argument_group('container')
    group.add_argument('--image', metavar='NAME', help=f'image to run (default: {IMAGE})')
    group.add_argument(
        '--engine', choices=ENGINES, help='default: docker where its daemon answers, else podman'
    )
    options = read_options(parser, argv)
    image = options.pop('image', IMAGE)
    try:
        engine = find_engine(options.pop('engine', None))
        check_image(engine, image)
        gpu = gpu_options(engine, image, options)
        complete(options)
        make_folders(options)
        command = [*container_command(engine, mounts(options)), *gpu, image]
    except OSError as error:
        print(f'{PROG}: error: {explain_error(error)}', file=sys.stderr)
        return EXIT_USAGE
    except ContainerError as error:
        print(f'{PROG}: error: {error}', file=sys.stderr)
        return EXIT_USAGE
    if engine.memory_gb < NEEDED_GB:
        print(
            f'{PROG}: warning: {engine.name} has {engine.memory_gb:.1f} GB of memory, an image '
            f'may take {NEEDED_GB:.0f}; give it more, or use --fast',
            file=sys.stderr,
        )
    command += [str(options['bids_dir']), str(options['output_dir']), *options['analysis_level']]
    command += write_options(parser, options)
    print(f'{PROG}: {shlex.join(command)}', file=sys.stderr, flush=True)
    os.execvp(command[0], command)


def find_engine(name: str | None = None) -> Engine:
    """Ask the engines whether they run.

    Parameters
    ----------
    name : str, optional
        The only one to ask.

    Returns
    -------
    Engine

    Raises
    ------
    ContainerError
        If none does.
    """
    candidates = [name] if name else ENGINES
    for candidate in candidates:
        if shutil.which(candidate) is None:
            continue
        answer = _run([candidate, 'info', '--format', '{{json .}}'])
        try:
            engine = _read_info(candidate, json.loads(answer.stdout))
        except (ValueError, LookupError):
            continue
        # Without its daemon, docker still tells about itself.
        if engine.memory_gb:
            return engine
    raise ContainerError(
        f'{" and ".join(candidates)}: not installed or not running; start it, or install '
        'synthseg-bids itself'
    )


def _read_info(name: str, info: Mapping[str, Any]) -> Engine:
    if name == 'podman':
        host = info['host']
        return Engine(name, host['memTotal'] / 2**30, host['security']['rootless'])
    rootless = any('rootless' in option for option in info.get('SecurityOptions') or ())
    return Engine(name, info['MemTotal'] / 2**30, rootless)


def check_image(engine: Engine, image: str) -> None:
    """Raise ContainerError if our own image was not built; others may be pulled."""
    if image == IMAGE and _run([engine.name, 'image', 'inspect', image]).returncode:
        raise ContainerError(
            f'{image}: {engine.name} has no such image; build it with "make docker", or name '
            'another one with --image'
        )


def gpu_options(engine: Engine, image: str, options: Mapping[str, Any]) -> list[str]:
    """Return the options that give GPUs to the container, where that works.

    Parameters
    ----------
    engine : Engine
    image : str
    options : mapping of str to object
        Those of the app.

    Returns
    -------
    list of str

    Raises
    ------
    ContainerError
        If GPUs are asked for and cannot be given.
    """
    device = options.get('device', 'auto')
    if device == 'cpu' or options.get('n_gpus') == 0:
        return []
    chosen = list(_GPU_OPTIONS[engine.name])
    if 'CUDA_VISIBLE_DEVICES' in os.environ:
        chosen += ['--env', 'CUDA_VISIBLE_DEVICES']
    required = device.startswith('cuda') or bool(options.get('n_gpus'))
    if not required and shutil.which('nvidia-smi') is None:
        return []
    trial = _run([engine.name, 'run', '--rm', *chosen, '--entrypoint', 'true', image])
    if trial.returncode == 0:
        return chosen
    reason = (trial.stderr.strip().splitlines() or ['no reason given'])[-1]
    if required:
        raise ContainerError(
            f'{engine.name} cannot hand over GPUs ({reason}); install the NVIDIA Container '
            'Toolkit, or use --device cpu'
        )
    print(
        f'{PROG}: warning: {engine.name} cannot hand over the GPU ({reason}); going on without',
        file=sys.stderr,
    )
    return []


def complete(options: dict[str, Any]) -> None:
    """Say what the app would find out by looking around, which it cannot from inside.

    Parameters
    ----------
    options : dict
        Those of the app; changed in place.
    """
    options.setdefault('work_dir', default_work_dir(options['bids_dir']))
    if os.environ.get('SYNTHSEG_BIDS_MODELS'):
        options.setdefault('model_dir', Path(os.environ['SYNTHSEG_BIDS_MODELS']).absolute())
    model = Path(options.get('model', ''))
    if model.is_file():
        options['model'] = str(model.absolute())


def make_folders(options: Mapping[str, Any]) -> None:
    """Make the folders that are written to, so that they belong to the user."""
    # The index of the images is written by a dry run, too.
    for key in WRITTEN[2:] if options.get('dry_run') else WRITTEN:
        if key in options:
            options[key].mkdir(parents=True, exist_ok=True)


def mounts(options: Mapping[str, Any]) -> dict[Path, bool]:
    """List what the options name and what exists, and whether it is written to.

    Everything is mounted under its own path. So messages, logs and links between datasets mean
    the same inside and outside.

    Parameters
    ----------
    options : mapping of str to object
        Those of the app.

    Returns
    -------
    dict of Path to bool
        Folders before what lies in them.

    Raises
    ------
    ContainerError
        If a path would hide a part of the image.
    """
    found = dict.fromkeys(_read_only(options), False)
    found |= {options[key]: True for key in WRITTEN if key in options}
    for path in found:
        for needed in map(Path, (*_OF_THE_IMAGE, *_OF_THE_SYSTEM)):
            if path == needed or path in needed.parents:
                raise ContainerError(
                    f'{path}: cannot be mounted, since the container has its own {needed}; use '
                    'a folder further down'
                )
    existing = {path: found[path] for path in sorted(found) if path.exists()}
    # What lies in a mounted folder is there already.
    return {
        path: writable
        for path, writable in existing.items()
        if not any(existing.get(parent) is writable for parent in path.parents)
    }


def _read_only(options: Mapping[str, Any]) -> Iterator[Path]:
    for value in options.values():
        if isinstance(value, Path):
            yield value
    for _, path in options.get('derivatives', ()):
        yield path
    if os.path.isabs(options.get('model', '')):
        # The model's card lies beside it.
        yield Path(options['model']).parent


def container_command(engine: Engine, mounted: Mapping[Path, bool]) -> list[str]:
    """Return the command that runs a container, up to the name of the image.

    Parameters
    ----------
    engine : Engine
    mounted : mapping of Path to bool
        See :func:`mounts`.

    Returns
    -------
    list of str
    """
    command = [engine.name, 'run', '--rm', '--network', 'none', '--read-only', '--tmpfs', '/tmp']
    if engine.name == 'docker' and engine.rootless:
        command += ['--user', '0:0']
    else:
        command += ['--user', f'{os.getuid()}:{os.getgid()}']
    if engine.name == 'podman':
        # Where SELinux is on, it would keep the container out of the user's folders.
        command += ['--security-opt', 'label=disable']
        command += ['--userns', 'keep-id'] if engine.rootless else []
    for path, writable in mounted.items():
        fields = ['type=bind', f'source={path}', f'target={path}']
        command += ['--mount', _quote(fields if writable else [*fields, 'readonly'])]
    return command


def _quote(fields: Sequence[str]) -> str:
    """Join fields with commas, as both engines read them; names of folders may have commas."""
    text = io.StringIO()
    csv.writer(text, lineterminator='').writerow(fields)
    return text.getvalue()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


if __name__ == '__main__':
    sys.exit(main())
