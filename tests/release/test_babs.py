"""The configuration for BABS, read and turned into scripts by babs itself.

Set BABS_PYTHON to a Python that has babs, whose requirements may not go with ours.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from synthseg_bids.app.parser import build_parser, parse_args

PATH = Path(__file__).parents[2] / 'examples/babs.yaml'
CONFIG = yaml.safe_load(PATH.read_text(encoding='utf-8'))
PYTHON = os.environ.get('BABS_PYTHON', sys.executable)
# What "babs init" does with the file, but for its datasets.
SCRIPTS = """
import sys, warnings
from babs.container import Container
from babs.input_datasets import InputDatasets
from babs.system import System

warnings.simplefilter('error', UserWarning)
path, folder, level = sys.argv[1:]
container = Container('containers', 'synthseg-bids-0-2-0', path)
inputs = InputDatasets(level, container.config['input_datasets'])
inputs.update_abs_paths(folder)
container.generate_bash_run_bidsapp(f'{folder}/run.sh', inputs, level)
container.generate_bash_participant_job(f'{folder}/job.sh', inputs, level, System('slurm'))
"""
# Writes down what the image is called with.
SINGULARITY = """#!/bin/sh
until [ "${1##*/}" = image ]; do echo "$1" >>options; shift; done
shift
printf '%s\\n' "$@" >words
"""
SEVEN_ZIP = """#!/bin/sh
[ -d "$3" ] && echo "$2" >../zipped
"""


@pytest.fixture(scope='module')
def scripts(tmp_path_factory):
    """Return the folder of both scripts."""
    found = subprocess.run([PYTHON, '-c', 'import babs'], capture_output=True)
    if found.returncode:
        pytest.skip('babs is not installed; BABS_PYTHON may name a Python that has it')
    folder = tmp_path_factory.mktemp('babs')
    command = [PYTHON, '-c', SCRIPTS, PATH, folder, 'subject']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_its_options_are_options():
    known = {name for action in build_parser()._actions for name in action.option_strings}
    assert {name for name in CONFIG['bids_app_args'] if not name.startswith('$')} <= known
    commented = re.search(r'\$SESSION_SELECTION_FLAG: "(.+)"', PATH.read_text())
    assert commented[1] in known


def test_the_run_of_a_participant(scripts, tmp_path, monkeypatch):
    """As in a job: the app gets what the file asks for, and what it makes is zipped."""
    for name, text in (('singularity', SINGULARITY), ('7z', SEVEN_ZIP)):
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    environ = {**os.environ, 'PATH': f'{scripts}:{os.environ["PATH"]}'}
    done = subprocess.run(
        ['bash', scripts / 'run.sh', 'sub-01'],
        capture_output=True, text=True, cwd=tmp_path, env=environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    options = (tmp_path / 'options').read_text().split()
    assert options == ['run', '-B', str(tmp_path), *CONFIG['singularity_args']]
    config = parse_args((tmp_path / 'words').read_text().splitlines())
    assert config.bids_dir == tmp_path / 'inputs/data/BIDS'
    assert config.output_dir == tmp_path / 'outputs/synthseg-bids'
    assert config.work_dir == tmp_path / '.git/tmp/wkdir'
    assert config.participant_label == ('01',)
    assert (config.nprocs, config.mem_gb, config.skip_bids_validation) == (4, 7, True)
    version = CONFIG['zip_foldernames']['synthseg-bids']
    assert (tmp_path / 'zipped').read_text() == f'../sub-01_synthseg-bids-{version}.zip\n'


def test_the_job_asks_for_what_the_app_may_use(scripts):
    job = (scripts / 'job.sh').read_text()
    assert '#SBATCH --cpus-per-task=4\n' in job
    assert '#SBATCH --mem=8G\n' in job
