"""Shared fixtures: everything is small, seeded and made on the fly."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from app import GOOD, Run, launch, save_tiny_model, write_description, write_image
from chromium import Chromium

from synthseg_bids.bids.validate import find_validator

#: Programs, not modules.
collect_ignore = ['stand_ins']
#: Markers of tests that are not in the fast lane.
APART = ('parity', 'containers', 'slurm', 'samseg', 'gpu', 'browser', 'slow')
#: How many tests the chosen lane leaves out, by why.
LEFT_OUT: dict[str, int] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as fast what no other marker sets apart; skip what needs a GPU where there is none.

    Files with slow tests come first: at the end of a run short ones keep all processes at work.
    """
    no_gpu = pytest.mark.skip(reason='no GPU here; tests/test_gpu.py pretends one')
    for item in items:
        if not any(item.get_closest_marker(name) for name in APART):
            item.add_marker('fast')
        elif item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(no_gpu)
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what is left out."""
    for item in items:
        why = next((name for name in APART if item.get_closest_marker(name)), 'not asked for')
        LEFT_OUT[why] = LEFT_OUT.get(why, 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a worker of several report what it left out: the same as the others."""
    if hasattr(session.config, 'workeroutput'):
        session.config.workeroutput['left_out'] = LEFT_OUT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker reports."""
    LEFT_OUT.update(getattr(node, 'workeroutput', {}).get('left_out', {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which tests were not run, and why."""
    markers = dict(line.split(': ', 1) for line in config.getini('markers') if ': ' in line)
    why = {f'{name}: {markers[name]}' if name in markers else name: count
           for name, count in LEFT_OUT.items()}  # fmt: skip
    skipped = Counter(
        report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
        for report in terminalreporter.stats.get('skipped', [])
    )
    if why or skipped:
        terminalreporter.section('tests that were not run')
    for reason, count in [*why.items(), *skipped.items()]:
        terminalreporter.write_line(f'{count:5} {reason.removeprefix("Skipped: ")}')


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
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One headless browser for all tests; what they show in it, each clears."""
    chromium = Chromium(tmp_path_factory.mktemp('chromium'))
    yield chromium
    chromium.close()


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
def finished(raw: Path, references: Path, tiny_model: Path) -> Iterator[Run]:
    """One run over everything, with a home directory that cannot be written.

    Tests share it, in an order of chance: one that runs the app on these outputs copies them.
    """
    home = raw.parent / 'home'
    home.mkdir(mode=0o500)
    environment = {**os.environ, 'HOME': str(home)}
    run = launch(raw, raw.parent / 'first' / 'synthseg-bids', tiny_model, '--posteriors', 'native',
                 '-d', f'fs={references}', env=environment)  # fmt: skip
    assert not any(home.iterdir())
    before = {path: path.stat().st_mtime_ns for path in run.out.rglob('*')}
    yield run
    assert {path: path.stat().st_mtime_ns for path in run.out.rglob('*')} == before
