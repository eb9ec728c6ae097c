"""The Boutiques descriptor: what it offers is what the parser takes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from boutiques_descriptor import LEFT_OUT, PATH, descriptor

from synthseg_bids.app.parser import build_parser, parse_args

DESCRIPTOR = json.loads(PATH.read_text(encoding='utf-8'))
INPUTS = {found['id']: found for found in DESCRIPTOR['inputs']}
#: A value for every input but one of each pair that excludes the other.
INVOCATION = {
    'bids_dir': 'raw',
    'new_output_dir': 'out put',
    'analysis_level': ['participant', 'group'],
    'participant_label': ['01', '02'],
    'bids_filter_file': 'filter.json',
    'derivatives': ['fs=subjects', 'other=more'],
    'mem_gb': '8000M',
    'n_gpus': 0,
    'nprocs': 2,
    'no_ct': True,
    'work_dir': 'work',
    'level': 'full',
    'overwrite': True,
}


@pytest.fixture(scope='module')
def bosh():
    found = shutil.which('bosh', path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip('boutiques is not installed')
    return found


def test_the_file_is_what_the_parser_gives():
    assert descriptor() == DESCRIPTOR, 'run release/boutiques_descriptor.py'


def test_every_flag_is_an_option():
    known = {name for action in build_parser()._actions for name in action.option_strings}
    flags = {
        found['command-line-flag'] for found in INPUTS.values() if 'command-line-flag' in found
    }
    assert len(flags) > 30
    assert flags <= known


def test_every_option_is_offered_or_left_out_for_a_reason():
    flags = {found.get('command-line-flag') for found in INPUTS.values()}
    missing = {
        action.dest for action in build_parser()._actions if not flags & {*action.option_strings}
    }
    assert missing == {*LEFT_OUT, 'bids_dir', 'output_dir', 'analysis_level'}


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('bids_dir', 'File'),  # mounted into the container, so that it must exist
        ('work_dir', 'String'),
        ('nprocs', 'Number'),
        ('mem_gb', 'String'),
        ('no_autocrop', 'Flag'),
    ],
)
def test_types(name, kind):
    assert INPUTS[name]['type'] == kind


def test_boutiques_accepts_it_as_a_bids_app(bosh):
    done = subprocess.run([bosh, 'validate', '--bids', PATH], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'BIDS validation OK' in done.stdout


def test_its_command_lines_are_what_was_asked_for(bosh, tmp_path, monkeypatch):
    invocation = tmp_path / 'invocation.json'
    invocation.write_text(json.dumps(INVOCATION))
    done = subprocess.run(
        [bosh, 'exec', 'simulate', '-i', invocation, PATH], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = done.stdout.strip().splitlines()[-1]
    folder, _, command = line.partition('; ')
    program, *words = shlex.split(command)
    assert (shlex.split(folder), program) == (['mkdir', '-p', 'out put'], 'synthseg-bids')

    monkeypatch.chdir(tmp_path)
    config = parse_args(words)
    expected = (
        "raw 'out put' participant group --participant-label 01 02 --bids-filter-file filter.json "
        '-d fs=subjects other=more --mem-gb 8000M --n-gpus 0 --nprocs 2 --no-ct -w work '
        '--level full --overwrite'
    )
    assert config == parse_args(shlex.split(expected))
