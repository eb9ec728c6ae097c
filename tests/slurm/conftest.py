"""Tests that start jobs of a real Slurm; where there is none they are skipped."""

from __future__ import annotations

import shutil
import subprocess

import pytest


@pytest.fixture(scope='session', autouse=True)
def _slurm():
    if shutil.which('sbatch') is None:
        pytest.skip('Slurm is not installed (no sbatch)')
    answer = subprocess.run(['sinfo', '--noheader'], capture_output=True, text=True)
    if answer.returncode or not answer.stdout.strip():
        pytest.skip(f'Slurm does not answer: {answer.stderr.strip().splitlines()[-1:]}')
