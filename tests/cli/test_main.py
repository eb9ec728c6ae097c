from __future__ import annotations

import subprocess
import sys

import pytest

from synthseg_bids.cli.synthesize import PRESET_NAMES
from synthseg_bids.synth.presets import PRESETS


def test_presets_are_those_of_the_generator():
    assert tuple(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize('command', ['', 'train', 'segment', 'synthesize', 'estimate-priors'])
def test_help_imports_nothing_heavy(command):
    code = (
        'import sys; from synthseg_bids.cli.main import build_parser\n'
        'try: build_parser().parse_args(sys.argv[1:])\n'
        'except SystemExit: pass\n'
        'heavy = {"torch", "numpy", "nipype", "nibabel", "pandas"} & set(sys.modules)\n'
        'assert not heavy, heavy\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', code, *command.split(), '--help'], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert 'usage: synthseg' in run.stdout
