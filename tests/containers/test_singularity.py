"""Apptainer images from both sources, run by an ordinary user as on a cluster."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import BASE_IMAGE, BUILD_MOUNTS, REPOSITORY, app_options, check_outputs, run

from synthseg_bids import __version__

pytestmark = pytest.mark.containers

#: May be a command that runs it elsewhere, as long as that shares /tmp and the current folder.
APPTAINER = shlex.split(os.environ.get('APPTAINER', 'apptainer'))
ARRAY = REPOSITORY / 'examples/slurm_array.sh'
SHUT_OFF = [*APPTAINER, 'run', '--cleanenv', '--containall', '--net', '--network', 'none']


@pytest.fixture(scope='module')
def store() -> Iterator[Path]:
    """A folder for images that an ordinary user may write to."""
    if shutil.which(APPTAINER[0]) is None:
        pytest.skip(f'{APPTAINER[0]}: not installed')
    path = Path(tempfile.mkdtemp(prefix='synthseg-bids-sif-'))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope='module')
def from_archive(store: Path, image: str) -> Path:
    """The Docker image as a SIF file, without a registry."""
    archive, sif = store / 'image.tar', store / 'from_archive.sif'
    _save(image, archive)
    run(*APPTAINER, 'build', sif, f'oci-archive:{archive}')
    archive.unlink()
    return sif


@pytest.fixture(scope='module')
def from_definition(store: Path) -> Path:
    """What the definition file alone makes."""
    sif = store / 'from_definition.sif'
    words = [f'APPTAINER={shlex.join(APPTAINER)}', f'SIF={sif}', 'DEVICE=cpu']
    options = list(_without_registry(store)) if BUILD_MOUNTS else []
    run('make', '-C', REPOSITORY, 'singularity', *words, f'BUILD_OPTIONS={shlex.join(options)}')
    return sif


def _without_registry(store: Path) -> Iterator[str]:
    """Build on the stand-in of the base image, with this machine's pip and certificates."""
    recipe = [f'FROM {BASE_IMAGE}']
    for number, mount in enumerate(BUILD_MOUNTS[1::2]):
        source, target, _ = mount.split(':')
        # Where Apptainer runs elsewhere, it sees only /tmp; and it makes no places for mounts.
        copy = store / f'mount{number}'
        if Path(source).is_dir():
            shutil.copytree(source, copy)
            recipe.append(f'RUN mkdir -p {target}')
        else:
            shutil.copy(source, copy)
            recipe.append(f'RUN mkdir -p {Path(target).parent} && touch {target}')
        yield from ('--bind', f'{copy}:{target}:ro')
    context, base = store / 'context', store / 'base.tar'
    context.mkdir()
    (context / 'Dockerfile').write_text('\n'.join(recipe) + '\n')
    name = 'localhost/synthseg-bids-test-base'
    run('buildah', 'bud', '--isolation', 'chroot', '--tag', name, context)
    _save(name, base)
    run('podman', 'rmi', name)
    for argument in ('BOOTSTRAP=oci-archive', f'BASE_IMAGE={base}', 'TORCH_INDEX='):
        yield from ('--build-arg', argument)


def _save(image: str, archive: Path) -> None:
    run('podman', 'save', '--quiet', '--format', 'oci-archive', '--output', archive, image)
    archive.chmod(0o644)


@pytest.mark.parametrize('source', ['from_archive', 'from_definition'])
def test_segments_for_an_ordinary_user(source, data, folder, request):
    sif = request.getfixturevalue(source)
    out, work = folder / 'out', folder / 'work'
    for path in (out, work):
        path.mkdir()
        path.chmod(0o777)
    # /tmp and the home are small inside.
    binds = ['-B', f'{data}:/data:ro', '-B', f'{out}:/out', '-B', f'{work}:/work']
    # The current folder is the one that Apptainer sees if it runs elsewhere.
    words = [*app_options('/data', '/out'), '-w', '/work']
    done = run(*SHUT_OFF, *binds, sif, *words, cwd=data)
    assert done.stdout.splitlines()[-1] == '1 done, 0 skipped, 0 failed'
    owner = (out / 'README.md').stat().st_uid
    assert owner != 0
    container = check_outputs(out, data, owner)['GeneratedBy'][0]['Container']
    if source == 'from_archive':
        assert container == {'Type': 'docker', 'Tag': f'{__version__}-cpu'}
    else:
        assert container == {'Type': 'singularity', 'URI': f'file://{sif}'}


def test_definition_tests_itself(from_definition):
    done = run(*APPTAINER, 'test', '--containall', from_definition)
    assert done.stdout.split() == ['synthseg-bids', __version__]


def test_labels(from_definition):
    answer = run(*APPTAINER, 'inspect', '--json', '--labels', from_definition).stdout
    labels = json.loads(answer)['data']['attributes']['labels']
    assert labels['org.opencontainers.image.version'] == __version__
    assert labels['org.opencontainers.image.licenses'] == 'Apache-2.0'


def test_python_of_the_user_stays_outside(from_definition, folder):
    """As long as it is not asked for: this is how programs are run without --cleanenv."""
    (folder / 'torch.py').write_text('raise SystemExit("not this one")\n')
    command = [*APPTAINER, 'exec', '-B', folder, from_definition, 'python', '-c']
    code = 'import torch; print(torch.__file__)'
    done = run(*command, code, env={**os.environ, 'PYTHONPATH': str(folder)}, cwd='/tmp')
    assert done.stdout.startswith('/opt/synthseg-bids/')


def test_size(from_archive, from_definition):
    for sif in (from_archive, from_definition):
        print(f'{sif.name}: {sif.stat().st_size / 1e9:.2f} GB')
        assert sif.stat().st_size < 0.9e9


@pytest.fixture
def job(from_definition, data, folder) -> dict[str, str]:
    """The environment of jobs: an image, a program called apptainer, a disk of the node.

    The folder holds the data, too: Apptainer that runs elsewhere sees what is below it.
    """
    shutil.copytree(data, folder / 'data')
    programs, disk = folder / 'bin', folder / 'disk'
    programs.mkdir()
    disk.mkdir()
    # Apptainer that runs elsewhere is someone else, to whom the job's folder must be open.
    words = shlex.join([shutil.which(APPTAINER[0]), *APPTAINER[1:]])
    lines = ['#!/bin/sh', 'chmod -f 777 "$TMPDIR"/tmp.*', f'exec {words} "$@"', '']
    (programs / 'apptainer').write_text('\n'.join(lines))
    (programs / 'apptainer').chmod(0o755)
    (folder / 'out').mkdir()
    (folder / 'out').chmod(0o777)
    path = f'{programs}:{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'TMPDIR': str(disk), 'SIF': str(from_definition)}


def array_options(folder: Path) -> tuple[list[str], list[str]]:
    """Return the folders and the options of an array."""
    words = app_options(folder / 'data', folder / 'out')
    return words[:2], words[3:]


def check_array(folder: Path) -> None:
    out = folder / 'out'
    description = check_outputs(out, folder / 'data', (out / 'README.md').stat().st_uid)
    assert description['GeneratedBy'][0]['Container']['Type'] == 'singularity'
    assert not list((folder / 'disk').iterdir())


def test_jobs_of_an_array(job, folder):
    """What Slurm runs of ``examples/slurm_array.sh``: a task that segments, then the group's."""
    folders, options = array_options(folder)
    command = [ARRAY, '--job', *folders, '1', *options]
    done = run(*command, env=job | {'SLURM_ARRAY_TASK_ID': '1'}, cwd=folder)
    assert done.stdout.splitlines()[-1] == '1 done, 0 skipped, 0 failed'
    run(*command, env=job, cwd=folder)
    check_array(folder)


def test_array_of_slurm(job, folder):
    if shutil.which('sinfo') is None or subprocess.run(['sinfo'], capture_output=True).returncode:
        pytest.skip('no Slurm answers')
    small = {'TASKS': '1', 'CPUS': '1', 'SBATCH_MEM_PER_NODE': '4G'}
    folders, options = array_options(folder)
    started = run(ARRAY, *folders, *options, env=job | small, cwd=folder).stdout
    group = started.split()[-1]
    run('sbatch', '--wait', f'--dependency=afterany:{group}', '--wrap=true', cwd=folder)
    check_array(folder)
