"""Tags of images, the build of PyTorch that is installed in them, and what is removed from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from synthseg_bids import __version__

ROOT = Path(__file__).parents[2]
NAME = 'synthseg-bids'
#: Stand-ins for "python -m venv --without-pip FOLDER" and for pip.
PYTHON = """#!/bin/sh
mkdir -p "$4/lib/python3.11"
cp -r "$MADE" "$4/lib/python3.11/site-packages"
"""
PIP = '#!/bin/sh\necho "$@" >> "$LOG"\n'
NEEDED = [
    'torch/lib/libtorch_cuda.so',
    'torch/bin/torch_shm_manager',
    'nvidia/cu13/lib/libcublas.so.13',
    'nvidia/cu13/lib/libnvrtc.so.13',
    'nvidia/nvshmem/lib/libnvshmem_host.so.3',
]
SPARE = [
    'torch/include/torch.h',
    'torch/bin/protoc',
    'triton/__init__.py',
    'nvidia/cu13/include/cuda.h',
    'nvidia/cu13/lib/libcudart_static.a',
    'nvidia/cu13/lib/libcusolverMg.so.12',
    'nvidia/cu13/lib/libnvrtc.alt.so.13',
    'numpy/tests/test_all.py',
]


@pytest.mark.parametrize(
    ('device', 'tags'),
    [
        ('', [__version__, 'latest']),
        ('cuda', [__version__, 'latest']),
        ('cpu', [f'{__version__}-cpu']),
        ('cu126', [f'{__version__}-cu126']),
    ],
)
def test_tags(device, tags):
    command = ['make', '--dry-run', 'docker', 'BUILDER=docker build', 'REVISION=none']
    command += [f'DEVICE={device}'] * bool(device)
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r'--tag (\S+)', printed) == [f'{NAME}:{tag}' for tag in tags]
    assert f'--build-arg DEVICE={device or "cuda"} ' in printed.replace('\\\n', '')
    assert f'--build-arg TAG={tags[0]} ' in printed


@pytest.mark.parametrize(
    ('device', 'index', 'expected'),
    [
        ('cuda', 'default', None),
        ('cpu', 'default', 'https://download.pytorch.org/whl/cpu'),
        ('cu126', 'default', 'https://download.pytorch.org/whl/cu126'),
        ('cpu', '', None),
        ('cuda', 'https://example.org/whl', 'https://example.org/whl'),
    ],
)
def test_installed_build_of_pytorch(tmp_path, device, index, expected):
    made, programs, log = tmp_path / 'made', tmp_path / 'bin', tmp_path / 'log'
    for name in (*NEEDED, *SPARE):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch()
    programs.mkdir()
    for name, text in (('python', PYTHON), ('pip', PIP)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f'{programs}{os.pathsep}{os.environ["PATH"]}'
    environment = {**os.environ, 'PATH': path, 'MADE': str(made), 'LOG': str(log)}
    command = ['sh', str(ROOT / 'docker/install.sh'), str(tmp_path / 'app'), device, index]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    first, _ = log.read_text().splitlines()
    assert first.endswith(f'--extra-index-url {expected} torch' if expected else 'txt torch')
    packages = tmp_path / 'app/lib/python3.11/site-packages'
    left = {str(p.relative_to(packages)) for p in packages.rglob('*') if p.is_file()}
    assert left == set(NEEDED)


@pytest.mark.parametrize('name', ['docker/Dockerfile', 'singularity/synthseg-bids.def'])
def test_what_images_check_of_the_weights_runs(name):
    text = (ROOT / name).read_text()
    programs = re.findall(r"python -c(?: \\\n)? +'([^']+)'", text)
    assert programs
    for program in set(programs):
        subprocess.run([sys.executable, '-c', program], check=True)
