"""The image, built with buildah and run with podman, as users do with Docker."""

from __future__ import annotations

import json
import os
import sys

import pytest
from images import REPOSITORY, app_options, check_outputs, run

from synthseg_bids import __version__

pytestmark = pytest.mark.containers

#: Nothing from outside, nothing to write to, and someone of whom the image knows nothing.
SHUT_OFF = ['podman', 'run', '--rm', '--network', 'none', '--read-only', '--tmpfs', '/tmp']
SHUT_OFF += ['--user', '1234:1234']
OWNER = 1234
if os.getuid():
    SHUT_OFF += ['--userns', 'keep-id:uid=1234,gid=1234']
    OWNER = os.getuid()


def test_image_is_small_and_described(image):
    about = json.loads(run('podman', 'image', 'inspect', image).stdout)[0]
    print(f'{image}: {about["Size"] / 1e9:.2f} GB')
    assert about['Size'] < 1.8e9
    labels = about['Labels']
    assert labels['org.opencontainers.image.version'] == __version__
    assert labels['org.opencontainers.image.licenses'] == 'Apache-2.0'
    assert len(labels['org.opencontainers.image.revision']) == 40
    # The same in the manifest, where registries look.
    names = ('title', 'version', 'revision', 'created', 'licenses')
    for key in (f'org.opencontainers.image.{name}' for name in names):
        assert about['Annotations'][key] == labels[key]
    assert about['Config']['Entrypoint'] == ['synthseg-bids']
    assert about['User'].split(':')[0] not in ('', '0', 'root')
    environment = dict(text.split('=', 1) for text in about['Config']['Env'])
    assert environment['NVIDIA_VISIBLE_DEVICES'] == 'all'
    assert 'compute' in environment['NVIDIA_DRIVER_CAPABILITIES']


def test_weights_are_a_layer_of_their_own(image):
    models = (REPOSITORY / 'synthseg_bids/data/models').iterdir()
    expected = sum(path.stat().st_size for path in models)
    answer = run('podman', 'history', '--format', '{{.Size}}', image).stdout
    units = {'B': 1, 'kB': 1e3, 'MB': 1e6, 'GB': 1e9}
    layers = [line.split() for line in answer.splitlines()]
    sizes = [float(number) * units[unit] for number, unit in layers]
    assert any(size == pytest.approx(expected, rel=0.01) for size in sizes), answer


def test_segments_for_anyone(image, data, folder):
    out = folder / 'out'
    out.mkdir()
    os.chown(out, OWNER, -1)
    command = [*SHUT_OFF, '-v', f'{data}:/data:ro', '-v', f'{out}:/out', image]
    done = run(*command, *app_options('/data', '/out'))
    assert done.stdout.splitlines()[-1] == '1 done, 0 skipped, 0 failed'
    # Caches that cannot be written, and tools that are missing, would be warned of.
    assert 'WARNING' not in done.stderr, done.stderr
    assert 'not installed' not in done.stderr
    description = check_outputs(out, data, owner=OWNER)
    tag = f'{__version__}-cpu'
    assert description['GeneratedBy'][0]['Container'] == {'Type': 'docker', 'Tag': tag}
    again = run(*command, *app_options('/data', '/out'))
    assert again.stdout.splitlines()[-1] == '0 done, 1 skipped, 0 failed'


def test_wrapper(image, data, folder):
    out = folder / 'out'
    wrapper = [sys.executable, '-m', 'synthseg_bids.app.docker_wrapper', '--engine', 'podman']
    done = run(*wrapper, '--image', image, *app_options(data, out), '--fast', cwd=folder)
    assert '1 done, 0 skipped, 0 failed' in done.stdout
    description = check_outputs(out, data, owner=os.getuid())
    # Links hold outside as well.
    assert (out / description['DatasetLinks']['raw']).resolve() == data
    assert (folder / 'work').is_dir()


def test_terminated_run_says_so(image, data, folder):
    out = folder / 'out'
    out.mkdir()
    os.chown(out, OWNER, -1)
    places = ['-v', f'{data}:/data:ro', '-v', f'{out}:/out']
    name = folder.name
    command = [word for word in SHUT_OFF if word != '--rm'] + ['--detach', '--name', name]
    run(*command, *places, image, *app_options('/data', '/out'))
    try:
        while not list(out.glob('logs/*/config.toml')):
            state = run('podman', 'inspect', '--format', '{{.State.Status}}', name).stdout.strip()
            assert state in ('created', 'running')
        # The app is process 1, to which the kernel delivers only signals that it handles.
        run('podman', 'stop', '--time', '60', name)
        code = run('podman', 'inspect', '--format', '{{.State.ExitCode}}', name).stdout.strip()
        assert code == '143'
    finally:
        run('podman', 'rm', '--force', name)
