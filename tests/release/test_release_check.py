"""The comparisons of make release-check; the whole of it builds, installs and takes minutes."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from published_files import (
    disagreements,
    label_facts,
    list_sdist,
    list_wheel,
    newest_changes,
    read_facts,
    sdist_problems,
    wheel_problems,
)
from release_check import ball, label_map_problems, run, trial_problems

from synthseg_bids import __version__

ROOT = Path(__file__).parents[2]
TRACKED = [
    '.ci/run',
    'setup.py',
    'synthseg_bids/__init__.py',
    'synthseg_bids/data/models/fast.safetensors',
    'tests/conftest.py',
]
INFO = 'synthseg_bids-1.0.dist-info/'
WHEEL = [*TRACKED[2:4], f'{INFO}METADATA', f'{INFO}licenses/LICENSE']
METADATA = f"""Metadata-Version: 2.4
Name: synthseg-bids
Version: {__version__}
Summary: Contrast-agnostic brain segmentation of BIDS data sets (SynthSeg in PyTorch)
License: Apache-2.0
"""


def test_contents_as_they_should_be():
    assert wheel_problems(WHEEL, TRACKED) == []
    assert sdist_problems(['PKG-INFO', 'setup.cfg', *TRACKED[1:]], TRACKED) == []


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        (lambda names: [*names, 'tests/conftest.py'], 'wheel: holds tests/conftest.py, which'),
        (lambda names: [*names, 'synthseg_bids/old.py'], 'wheel: holds synthseg_bids/old.py'),
        (lambda names: names[1:], 'wheel: lacks synthseg_bids/__init__.py; see setup.py'),
        (lambda names: names[:-1], 'wheel: no LICENSE'),
    ],
)
def test_contents_of_a_wheel(change, problem):
    [found] = wheel_problems(change(WHEEL), TRACKED)
    assert found.startswith(problem)


def test_a_wheel_without_weights():
    tracked = [name for name in TRACKED if not name.endswith('.safetensors')]
    wheel = [name for name in WHEEL if not name.endswith('.safetensors')]
    assert wheel_problems(wheel, tracked) == ['wheel: no weights; see package_data in setup.py']


def test_contents_of_an_sdist():
    found = sdist_problems([*TRACKED[2:], '.ci/run'], TRACKED)
    assert found == [
        'sdist: holds .ci/run, which should not be there',
        'sdist: lacks setup.py; see setup.py and MANIFEST.in',
    ]


def test_names_in_archives(tmp_path):
    (tmp_path / 'one').write_text('1')
    with zipfile.ZipFile(tmp_path / 'x.whl', 'w') as archive:
        archive.write(tmp_path / 'one', 'package/one')
    with tarfile.open(tmp_path / 'x.tar.gz', 'w:gz') as archive:
        archive.add(tmp_path / 'one', 'x-1.0/package/one')
    assert list_wheel(tmp_path / 'x.whl') == list_sdist(tmp_path / 'x.tar.gz') == ['package/one']


def test_disagreements_name_both_sides():
    facts = {
        'wheel': {'name': 'a', 'version': '1.0', 'license': 'MIT'},
        'CITATION.cff': {'name': 'a', 'version': '0.9'},
        'docker/Dockerfile': {'version': '1.0', 'license': 'BSD'},
    }
    assert disagreements(facts) == [
        "CITATION.cff: version '0.9', but wheel has '1.0'",
        "docker/Dockerfile: license 'BSD', but wheel has 'MIT'",
    ]


@pytest.mark.parametrize(
    ('heading', 'version', 'newest'),
    [
        ('1.0.0', '1.0.0', '1.0.0'),
        ('Unreleased', '1.1.0.dev0', '1.1.0.dev0'),
        ('Unreleased', '1.0.0', 'Unreleased'),  # changes that the release does not name
        ('1.0.0', '1.1.0', '1.0.0'),  # a release without a section
        ('1.0.0', '1.1.0.dev0', '1.0.0'),
    ],
)
def test_section_of_changes(heading, version, newest):
    text = f'Changes\n=======\n\n{heading}\n-----\n\n- One.\n\n0.1.0\n-----\n\n- Two.\n'
    assert newest_changes(text, version) == newest


def test_labels_that_are_missing():
    text = 'LABEL org.opencontainers.image.version="${VERSION}" \\\n'
    assert label_facts(text, '2.0') == {'name': 'missing', 'version': '2.0', 'license': 'missing'}


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / f'synthseg_bids-{__version__}-py3-none-any.whl'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'synthseg_bids-{__version__}.dist-info/METADATA', METADATA)
    return path


def test_all_files_of_the_repository_agree(wheel):
    make = ['docker', 'singularity', 'BUILDER=docker build', 'REVISION=none']
    facts = read_facts(ROOT, wheel, run('make', '--dry-run', *make, cwd=ROOT))
    assert disagreements(facts) == []
    assert {
        'CITATION.cff', 'CHANGES.rst', 'docker/Dockerfile', 'tag of docker/Dockerfile',
        'singularity/synthseg-bids.def', 'release/synthseg-bids.json', 'examples/babs.yaml',
    } <= {*facts}  # fmt: skip


def test_an_image_that_is_built_without_version(wheel):
    make = 'docker build --file docker/Dockerfile .\napptainer build singularity/synthseg-bids.def'
    facts = read_facts(ROOT, wheel, make)
    assert len([line for line in disagreements(facts) if "version 'missing'" in line]) == 2


def test_label_maps_of_the_trial():
    scan = ball()
    labels = np.zeros(scan.shape, np.uint8)
    empty = nib.Nifti1Image(labels, scan.affine)
    assert label_map_problems(scan, empty) == ['synthseg segment: the label map is empty']
    labels[0] = 2
    assert label_map_problems(scan, nib.Nifti1Image(labels, scan.affine)) == []
    [elsewhere] = label_map_problems(scan, nib.Nifti1Image(labels, np.eye(4)))
    assert 'not on the grid' in elsewhere


@pytest.mark.slow
def test_the_checkout_is_not_what_was_installed(tmp_path):
    """Programs that import the package of elsewhere, and are of another version, are named."""
    programs = tmp_path / 'env/bin'
    programs.mkdir(parents=True)
    for name, module in (
        ('python', ''), ('synthseg', '-m synthseg_bids.cli'),
        ('synthseg-bids', '-m synthseg_bids.app.main'),
        ('synthseg-bids-docker', '-m synthseg_bids.app.docker_wrapper'),
    ):  # fmt: skip
        script = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {module} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    found = trial_problems(programs, tmp_path / 'elsewhere', '99')
    assert len(found) == 4
    assert found[0] == f'installed wheel: the package is that of {ROOT}/synthseg_bids/__init__.py'
    assert found[1] == f"synthseg --version: {__version__}, but the wheel has '99'"


def test_a_command_that_fails_shows_what_it_printed():
    with pytest.raises(SystemExit, match=r'exit code 3\n.*no such thing'):
        run(sys.executable, '-c', 'import sys; print("no such thing"); sys.exit(3)')
