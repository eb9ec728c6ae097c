"""Shared fixtures: everything is small, seeded and made on the fly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app import GOOD, Run, launch, save_tiny_model, write_description, write_image

from synthseg_bids.bids.validate import find_validator

#: Programs, not modules.
collect_ignore = ['stand_ins']


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy's generator, seeded."""
    return np.random.default_rng(0)


@pytest.fixture
def data(rng: np.random.Generator) -> np.ndarray:
    """A small volume of noise."""
    return rng.normal(size=(4, 5, 6)).astype(np.float32)


@pytest.fixture(scope='session')
def validator() -> str:
    """The BIDS validator."""
    found = find_validator()
    if found is None:
        pytest.skip('bids-validator-deno is not installed')
    return found


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights: three levels, four features, 4 mm."""
    return save_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.safetensors')


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """Make empty files below ``tmp_path/raw``; returns that folder."""

    def make(*names: str) -> Path:
        root = tmp_path / 'raw'
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make


@pytest.fixture(scope='session')
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good images, one truncated, one not downloaded, one 4D, one of another suffix."""
    root = tmp_path_factory.mktemp('data') / 'raw'
    write_description(root, 'Toy')
    for seed, name in enumerate(GOOD):
        write_image(root / name, seed=seed)
    bad = root / 'sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz'
    write_image(bad)
    bad.write_bytes(bad.read_bytes()[:1500])
    bad.with_name('sub-02_ses-a_T2w.nii.gz').symlink_to('../.git/annex/x')
    write_image(bad.with_name('sub-02_ses-a_PDw.nii.gz'), (4, 4, 4, 2))
    write_image(bad.with_name('sub-02_ses-a_angio.nii.gz'))
    return root


@pytest.fixture(scope='session')
def references(raw: Path) -> Path:
    """A reference for sub-01 that fits, one for sub-02 with labels of another scheme."""
    root = raw.parent / 'references'
    write_description(root, 'References')
    labels = np.zeros((9, 10, 11), np.int16)
    labels[:3], labels[3:6], labels[6:] = 2, 41, 1017
    paths = {
        'sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz': labels,
        'sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_dseg.nii.gz': labels + 130,
    }
    for name, data in paths.items():
        (root / name).parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(data, np.diag([-8.0, 8, 9, 1])), root / name)
    return root


@pytest.fixture(scope='session')
def finished(raw: Path, references: Path, tiny_model: Path) -> Run:
    """One run over everything, with a home directory that cannot be written."""
    home = raw.parent / 'home'
    home.mkdir(mode=0o500)
    environment = {**os.environ, 'HOME': str(home)}
    run = launch(raw, raw.parent / 'first' / 'synthseg-bids', tiny_model, '--posteriors', 'native',
                 '-d', f'fs={references}', env=environment)  # fmt: skip
    assert not any(home.iterdir())
    return run
