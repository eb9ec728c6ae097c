"""Images, built once, and the scan that they segment."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import BUILD_MOUNTS, DATA, PARTICIPANT, REPOSITORY, run

from synthseg_bids import __version__


@pytest.fixture(scope='session')
def data() -> Path:
    """A dataset with a scan and a reference of it."""
    if not (DATA / f'sub-{PARTICIPANT}').is_dir():
        pytest.skip(f'{DATA}: no sub-{PARTICIPANT}; name a dataset in SYNTHSEG_BIDS_TEST_DATA')
    return DATA.resolve()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that whoever runs a container may write to, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix='synthseg-bids-'))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope='session')
def image() -> str:
    """The image, built as users build it."""
    missing = [name for name in ('buildah', 'podman') if shutil.which(name) is None]
    if missing:
        pytest.skip(f'{" and ".join(missing)}: not installed')
    options = []
    if BUILD_MOUNTS:
        # The pip of this machine knows best where to find PyTorch.
        options = ['--isolation', 'chroot', *BUILD_MOUNTS, '--build-arg', 'TORCH_INDEX=']
    words = [f'BUILD_OPTIONS={shlex.join(options)}', 'IMAGE=localhost/synthseg-bids']
    # The one with CUDA is gigabytes.
    run('make', '-C', REPOSITORY, 'docker', 'DEVICE=cpu', 'BUILDER=$(BUILDAH)', *words)
    return f'localhost/synthseg-bids:{__version__}-cpu'
