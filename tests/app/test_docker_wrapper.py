"""The wrapper's command lines; tests/containers/test_docker.py runs one for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from synthseg_bids import __version__
from synthseg_bids.app.command_line import parse_args

WRAPPER = [sys.executable, '-m', 'synthseg_bids.app.docker_wrapper']
# Answers as the engines do, and writes down how it is called in the end.
ENGINE = """#!/bin/sh
case "$1 $*" in
    info*) echo '{info}' ;;
    image*) exit {image} ;;
    *--entrypoint*) {gpu} || {{ echo 'could not select device driver' >&2; exit 1; }} ;;
    *) printf '%s\\n' "$@"; exit 7 ;;
esac
"""
DOCKER = {'MemTotal': 16 * 2**30, 'SecurityOptions': ['name=seccomp,profile=builtin']}


class Engines:
    """A folder of engines that is all there is to find."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, name='docker', info=None, image=0, gpu=True, smi=False):
        text = ENGINE.format(info=json.dumps(info), image=image, gpu=str(gpu).lower())
        self.write(name, text)
        if smi:
            self.write('nvidia-smi', '#!/bin/sh\n')

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def call(self, *words, cwd=None, **environ):
        environ = {**os.environ, 'PATH': str(self.folder), **environ}
        environ.pop('CUDA_VISIBLE_DEVICES', None)
        done = subprocess.run(
            [*WRAPPER, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environ
        )
        return done, done.stdout.splitlines() if done.returncode == 7 else None


@pytest.fixture
def engines(tmp_path):
    folder = tmp_path / 'bin'
    folder.mkdir()
    return Engines(folder)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / 'raw, odd'
    (folder / 'derivatives' / 'fs').mkdir(parents=True)
    return folder


def mounted(command):
    """Return the arguments of --mount by target."""
    texts = [after for word, after in pairwise(command) if word == '--mount']
    fields = [text.replace('"', '').removeprefix('type=bind,source=') for text in texts]
    assert all(part.split(',target=')[0] == _target(part) for part in fields)
    return {_target(part): 'ro' if part.endswith(',readonly') else 'rw' for part in fields}


def _target(part):
    return part.split(',target=')[1].removesuffix(',readonly')


def test_paths_become_mounts(engines, raw, tmp_path):
    engines.add(info=DOCKER)
    out = raw / 'derivatives' / 'synthseg-bids'
    other = tmp_path / 'reference'
    other.mkdir()
    model = tmp_path / 'models' / 'm.safetensors'
    model.parent.mkdir()
    model.touch()
    words = [raw.name, out.relative_to(tmp_path), 'participant', 'group', '-d']
    words += [f'fs={raw}/derivatives/fs', 'ref=reference', '--participant-label', 'sub-01', '02']
    words += ['--model', 'models/m.safetensors', '--mem', '6000M', '--batch', '1/2', '-vv']
    words += ['--no-gpu-fallback', '--fast']
    done, command = engines.call(*words, cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    # What lies in the dataset is there with it, but for what is written to.
    assert mounted(command) == {
        str(raw): 'ro',
        str(other): 'ro',
        str(model.parent): 'ro',
        str(out): 'rw',
        str(tmp_path / 'work'): 'rw',
    }
    image = command.index(f'synthseg-bids:{__version__}')
    places = [str(raw), str(out), 'participant', 'group']
    assert command[image + 1 : image + 5] == places
    there, here = parse_args(command[image + 1 :]), parse_args([*places, *map(str, words[4:])])
    assert there.work_dir == tmp_path / 'work'
    assert there.model == str(model)
    assert dict(there.derivatives) == {'fs': raw / 'derivatives' / 'fs', 'ref': other}
    same = ('participant_label', 'mem_gb', 'batch', 'verbose', 'gpu_fallback', 'fast')
    assert [getattr(there, name) for name in same] == [getattr(here, name) for name in same]
    # They belong to the user, not to the root of the engine.
    assert out.is_dir()
    assert (tmp_path / 'work').is_dir()


@pytest.mark.parametrize('more', [(), ('--dry-run',)])
def test_database_is_written_in_the_container(engines, raw, tmp_path, more):
    engines.add(info=DOCKER)
    index = tmp_path / 'index'
    _, command = engines.call(
        raw, tmp_path / 'out', 'participant', '--bids-database-dir', index, *more, cwd=tmp_path
    )
    assert mounted(command)[str(index)] == 'rw'
    assert index.is_dir()


def test_container_is_shut_off(engines, raw, tmp_path):
    engines.add(info=DOCKER)
    _, command = engines.call(raw, tmp_path / 'out', 'participant', cwd=tmp_path)
    start = ['run', '--rm', '--network', 'none', '--read-only', '--tmpfs', '/tmp', '--user']
    assert command[: len(start) + 1] == [*start, f'{os.getuid()}:{os.getgid()}']


def test_config_file_is_read_outside(engines, raw, tmp_path):
    engines.add(info=DOCKER)
    saved = tmp_path / 'config.toml'
    saved.write_text(f'fast = true\nmodel_dir = "{tmp_path}/bin"\n')
    _, command = engines.call(
        raw, tmp_path / 'out', 'participant', '--config-file', saved, cwd=tmp_path
    )
    assert '--fast' in command
    assert '--config-file' not in command
    assert mounted(command)[str(tmp_path / 'bin')] == 'ro'


def test_dry_run_makes_nothing(engines, raw, tmp_path):
    engines.add(info=DOCKER)
    _, command = engines.call(raw, tmp_path / 'out', 'participant', '--dry-run', cwd=tmp_path)
    assert mounted(command) == {str(raw): 'ro'}
    assert not (tmp_path / 'out').exists()
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    ('kwargs', 'words', 'given', 'said'),
    [
        ({}, [], False, ''),
        ({'smi': True}, [], True, ''),
        ({'smi': True}, ['--device', 'cpu'], False, ''),
        ({'smi': True}, ['--n-gpus', '0'], False, ''),
        ({'smi': True, 'gpu': False}, [], False, 'going on without'),
        ({}, ['--device', 'cuda:1'], True, ''),
        ({'gpu': False}, ['--device', 'cuda'], None, 'could not select device driver'),
        ({'gpu': False}, ['--n-gpus', '2'], None, 'NVIDIA Container Toolkit'),
    ],
)
def test_gpus_where_they_work(engines, raw, tmp_path, kwargs, words, given, said):
    engines.add(info=DOCKER, **kwargs)
    done, command = engines.call(raw, tmp_path / 'out', 'participant', *words, cwd=tmp_path)
    assert said in done.stderr
    if given is None:
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    else:
        assert ('--gpus' in command) == given


def test_podman_where_the_daemon_of_docker_is_silent(engines, raw, tmp_path):
    engines.add('docker', info={'MemTotal': 0, 'ServerErrors': ['Cannot connect']})
    host = {'memTotal': 16 * 2**30, 'security': {'rootless': True}}
    engines.add('podman', info={'host': host}, smi=True)
    done, command = engines.call(raw, tmp_path / 'out', 'participant', cwd=tmp_path)
    assert 'podman run' in done.stderr
    assert command[command.index('--userns') + 1] == 'keep-id'
    assert command[command.index('--device') + 1] == 'nvidia.com/gpu=all'


def test_root_of_a_rootless_docker_is_the_user(engines, raw, tmp_path):
    engines.add(info={**DOCKER, 'SecurityOptions': ['name=rootless']})
    _, command = engines.call(raw, tmp_path / 'out', 'participant', cwd=tmp_path)
    assert command[command.index('--user') + 1] == '0:0'


def test_little_memory_is_told(engines, raw, tmp_path):
    engines.add(info={'MemTotal': 2 * 2**30})
    done, command = engines.call(raw, tmp_path / 'out', 'participant', cwd=tmp_path)
    assert command
    assert 'warning: docker has 2.0 GB of memory' in done.stderr


@pytest.mark.parametrize(
    ('out', 'kwargs', 'said'),
    [
        ('/usr', {}, '/usr: cannot be mounted'),
        ('/', {}, '/: cannot be mounted'),
        ('out', {'image': 1}, 'make docker'),
        ('out', {'info': {'MemTotal': 0}}, 'not installed or not running'),
    ],
)
def test_refusals_are_one_line(engines, raw, tmp_path, out, kwargs, said):
    engines.add(**{'info': DOCKER, **kwargs})
    done, _ = engines.call(raw, out, 'participant', cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
