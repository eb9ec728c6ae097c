"""``examples/slurm_train.sh``: one run on several nodes, which here are tasks of one node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from cluster import ask, cancel, fields, wait_until
from heads import write_heads

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).parents[2] / 'examples' / 'slurm_train.sh'
#: Less than the script asks for, which small machines do not have.
SMALL = ['--ntasks=2', '--ntasks-per-node=2', '--cpus-per-task=1', '--mem=3G', '--time=20']


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder whose name has a blank."""
    folder = tmp_path_factory.mktemp('train') / 'my data'
    (folder / 'maps').mkdir(parents=True)
    write_heads(folder / 'maps')
    return folder


def submit(folder: Path, steps: int, features: int = 2) -> str:
    """Start two tasks of one process each; return the number of the job."""
    words = [folder / 'maps', folder / 'out', '--steps', steps, '--epoch-steps', 5]
    words += ['--features', features, '--levels', 2, '--size', 16, 16, 16, '--device', 'cpu']
    environment = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'PROCESSES': '1',
        'GLOO_SOCKET_IFNAME': 'lo',
    }
    done = subprocess.run(
        ['sbatch', '--parsable', *SMALL, SCRIPT, *map(str, words)],
        env=environment, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def state(job: str) -> str:
    return fields(job)['JobState']


def has_ended(job: str) -> bool:
    return state(job) not in ('PENDING', 'RUNNING', 'COMPLETING')


def log(folder: Path, job: str) -> str:
    path = folder / f'synthseg-train-{job}.log'
    return path.read_text() if path.exists() else ''


def saved(folder: Path) -> dict:
    return torch.load(folder / 'out' / 'checkpoint.pt', weights_only=True)


def test_job_saves_before_its_time_is_over_and_queues_up_again(folder):
    job = submit(folder, 1_000_000)
    wait_until(lambda: re.search(r' step 5 .*', log(folder, job)), 900)
    # The signal is sent five minutes before the end, which is nearer now.
    end = datetime.now() + timedelta(minutes=4)
    ask('scontrol', 'update', f'JobId={job}', f'EndTime={end.isoformat(timespec="seconds")}')
    wait_until(lambda: fields(job).get('Restarts') == '1', 300)
    first = log(folder, job)
    step = re.search(r'interrupted; saving step (\d+)', first)[1]
    # It would have no more time than before, and would wait two minutes for another node. In the
    # second in which it ended, the node would refuse it ("Job credential revoked").
    wait_until(lambda: state(job) != 'COMPLETING', 300)
    ask('scontrol', 'update', f'JobId={job}', 'TimeLimit=20', 'StartTime=now+5')
    # Not the step of the checkpoint, which the resumed job soon writes again.
    resumed = f'resumed at step {step}\n'
    wait_until(lambda: has_ended(job) or resumed in log(folder, job), 900)
    assert resumed in log(folder, job), fields(job)
    wait_until(lambda: re.search(r' step \d+ .*', log(folder, job)[len(first) :]), 900)
    # One that is cancelled stays away.
    cancel(job)
    wait_until(lambda: state(job) == 'CANCELLED', 300)
    assert fields(job)['Restarts'] == '1'
    assert saved(folder)['samples'] == 2 * saved(folder)['step']


def test_job_ends_with_the_last_step(folder):
    before = saved(folder)
    job = submit(folder, before['step'] + 3)
    wait_until(lambda: has_ended(job), 900)
    assert state(job) == 'COMPLETED', log(folder, job)
    after = saved(folder)
    assert (after['step'], after['samples']) == (before['step'] + 3, before['samples'] + 6)


def test_job_with_an_error_fails_once(folder):
    job = submit(folder, 9, features=4)
    wait_until(lambda: has_ended(job), 900)
    assert (state(job), fields(job)['Restarts']) == ('FAILED', '0')
    assert 'use the same options or another folder' in log(folder, job)
