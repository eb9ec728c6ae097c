"""Every node as a job: what jobs ask for, and what becomes of a run whose jobs are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from math import ceil
from pathlib import Path

import pytest
import torch
from app import APP, Run, contents, launch, options, write_description, write_image
from cluster import ask, cancel, end_time, fields, jobs, kill, last_job, wait_for_job, wait_until
from other_faults import SLURM_JOBS, SLURM_REFUSES, SLURM_RUN

from synthseg_bids.inference.memory_estimate import describe_model, worker_gb
from synthseg_bids.models.card import save_model
from synthseg_bids.models.registry import load_model
from synthseg_bids.workflows.multiproc import make_plugin

pytestmark = pytest.mark.slurm

GOOD = 'sub-01/anat/sub-01_acq-good_T1w.nii.gz'
CANCELLED = 'sub-01/anat/sub-01_acq-cancelled_T1w.nii.gz'
KILLED = 'sub-02/anat/sub-02_acq-killed_T1w.nii.gz'
TIMED_OUT = 'sub-02/anat/sub-02_acq-timedout_T1w.nii.gz'
MEMORY = 'sub-02/anat/sub-02_acq-memory_T1w.nii.gz'

#: Jobs that last until something is done to them, and one that may take no more than 200 MB. When
#: their time is over only the sleep may be ended at first: they must not go on to segment.
TEMPLATE = """#!/bin/bash
case $SLURM_JOB_NAME in
    segment.*cancelled*|segment.*killed*|segment.*timedout*) sleep 900 || exit;;
    segment.*memory*) ulimit -v 200000;;
esac
"""


def make_dataset(folder: Path, names: list[str]) -> Path:
    write_description(folder, 'Toy')
    for seed, name in enumerate(names):
        write_image(folder / name, seed=seed)
    return folder


def write_plugin(path: Path, **arguments: object) -> Path:
    path.write_text(json.dumps({'plugin': 'SLURM', 'plugin_args': arguments}))
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder whose name has a blank."""
    folder = tmp_path_factory.mktemp('slurm') / 'my data'
    folder.mkdir()
    return folder


@pytest.fixture(scope='module')
def dataset(folder) -> Path:
    return make_dataset(folder / 'raw', [GOOD, CANCELLED, KILLED, TIMED_OUT, MEMORY])


@pytest.fixture(scope='module')
def before() -> int:
    """Number of the last job of others."""
    return last_job()


@pytest.fixture(scope='module')
def first(folder, dataset, tiny_model, before) -> Run:
    """A run over the images of one participant, where nobody is logged in."""
    plugin = write_plugin(folder / 'first.json', sbatch_args='--oversubscribe')
    environment = {key: value for key, value in os.environ.items() if key != 'LOGNAME'}
    return launch(dataset, folder / 'out', tiny_model, '--participant-label', '01', '--use-plugin',
                  plugin, env=environment, cwd=folder)  # fmt: skip


@pytest.fixture(scope='module')
def faulty(folder, dataset, tiny_model, first) -> Run:
    """A run with another model, of which some jobs are killed before they begin to segment."""
    network, card = load_model(tiny_model)
    model = folder / 'other.safetensors'
    network.get_parameter(next(iter(network.state_dict()))).data *= 2
    save_model(model, network, card)
    plugin = write_plugin(folder / 'faulty.json', template=TEMPLATE)
    after = last_job()
    command = [*APP, *options(dataset, folder / 'out', model, '--use-plugin', plugin)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for name, harm in (('cancelled', cancel), ('killed', kill), ('timedout', end_time)):
            participant = '01' if name == 'cancelled' else '02'
            harm(wait_for_job(f'segment.sub-{participant}_acq-{name}_', after))
        stdout, stderr = process.communicate(timeout=900)
    return Run(folder / 'out', process.returncode, stdout, stderr)


def test_jobs_ask_for_what_their_nodes_need(first, before, folder):
    assert (first.code, first.stdout) == (0, '2 done, 0 skipped, 0 failed\n')
    ours = {job: name for job, (name, _) in jobs().items() if job > before}
    segment = next(job for job, name in ours.items() if name.startswith('segment.'))
    save = next(job for job, name in ours.items() if name.startswith('save.'))
    asked = {job: fields(job) for job in (segment, save)}
    assert asked[segment]['TRES'].startswith('cpu=1,mem=1G,')
    assert asked[save]['TRES'].startswith('cpu=1,mem=1G,')
    assert 'gres' not in asked[segment]['TRES']
    # --oversubscribe has -o in it; logs stay in the working directory all the same.
    assert asked[segment]['OverSubscribe'] == 'YES'
    assert not list(folder.glob('slurm-*.out'))
    assert list(folder.glob('work/*/batch/slurm-*.out'))


def test_jobs_ask_for_a_gpu_and_for_the_memory_of_the_model(folder):
    """Slurm may believe in a GPU that does not exist; then the run fails, image by image."""
    if 'gpu' not in ask('sinfo', '--noheader', '--format=%G'):
        pytest.skip('Slurm knows of no GPU')
    heads = make_dataset(folder / 'heads', [])
    grid = (64, 64, 64), (4.0, 4.0, 4.0)
    for seed, name in enumerate((GOOD, KILLED)):
        write_image(heads / name, grid[0], seed, grid[1])
    memory = ceil(worker_gb(describe_model('default'), [grid]))
    assert memory > 1
    after = last_job()
    plugin = write_plugin(folder / 'gpu.json', sbatch_args='--cpus-per-task=2')
    run = launch(heads, folder / 'gpu', 'default', '--device', 'cuda', '--use-plugin', plugin,
                 '-w', folder / 'gpu_work')  # fmt: skip
    assert (run.code == 0) is torch.cuda.is_available()
    segments = [job for job, (name, _) in jobs().items() if name.startswith('segment.')]
    asked = [fields(job) for job in segments if job > after]
    assert len(asked) == 2
    for job in asked:
        assert job['TRES'].startswith(f'cpu=2,mem={memory}G,')
        assert job['TresPerNode'] == 'gres:gpu:1'


def test_killed_jobs_fail_alone(faulty):
    SLURM_JOBS.check(faulty)
    status = faulty.status()
    failed = {name: row['reason'] for name, row in status.items() if row['status'] == 'failed'}
    assert {*failed} == {CANCELLED, KILLED, TIMED_OUT, MEMORY}
    lost = 'its batch job ended without a result (killed, or out of memory or time): '
    assert failed[CANCELLED].startswith(f'{lost}CANCELLED; see ')
    assert failed[KILLED].startswith(f'{lost}FAILED; see ')
    assert failed[TIMED_OUT].startswith(f'{lost}TIMEOUT; see ')
    # Where memory ends is a matter of chance; this is the line of a library that was not loaded.
    assert re.search('failed to map|memory', failed[MEMORY])
    assert all((faulty.out / row['crash_file']).is_file()
               for name, row in status.items() if name in failed)  # fmt: skip


def test_next_run_completes(faulty, folder, dataset, tiny_model):
    plugin = write_plugin(folder / 'next.json')
    run = launch(dataset, folder / 'out', folder / 'other.safetensors', '--use-plugin', plugin)
    SLURM_JOBS.check_next(run)
    local = launch(dataset, folder / 'local', folder / 'other.safetensors', '-w', folder / 'w')
    assert (local.code, local.stdout) == (0, '5 done, 0 skipped, 0 failed\n')
    assert contents(run.out) == contents(local.out)


def test_jobs_end_with_the_run(folder, dataset, tiny_model):
    after = last_job()
    plugin = write_plugin(folder / 'terminated.json', template=TEMPLATE)
    arguments = ['--participant-label', '02', '--use-plugin', plugin, '-w', folder / 'end_work']
    command = [*APP, *options(dataset, folder / 'end', tiny_model, *arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_job('segment.', after)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=300)
    SLURM_RUN.check(Run(folder / 'end', process.returncode, stdout, stderr))
    running = ('RUNNING', 'PENDING', 'COMPLETING')
    wait_until(lambda: not [j for j, (_, s) in jobs().items() if j > after and s in running], 60)
    # Where it runs does not matter to the outputs.
    SLURM_RUN.check_next(
        launch(dataset, folder / 'end', tiny_model, *arguments[:2], '-w', folder / 'end_work')
    )


def test_slurm_that_does_not_answer_is_asked_again(tmp_path, monkeypatch):
    def is_pending() -> bool:
        plugin = make_plugin('SLURM', {})
        plugin._queued.add(2_000_000_000)  # as if it had been submitted
        return plugin._is_pending(2_000_000_000)

    assert not is_pending()
    # The same Slurm, but nobody at the port of its controller.
    (path,) = re.findall(r'^SLURM_CONF\s*= (.*)', ask('scontrol', 'show', 'config'), re.MULTILINE)
    settings, found = re.subn('(?m)^SlurmctldPort=.*', 'SlurmctldPort=9', Path(path).read_text())
    if not found:
        pytest.skip(f'{path}: names no port')
    (tmp_path / 'slurm.conf').write_text(settings)
    monkeypatch.setenv('SLURM_CONF', str(tmp_path / 'slurm.conf'))
    assert is_pending()


def test_what_slurm_refuses_is_said_in_one_line(folder, dataset, tiny_model):
    plugin = write_plugin(
        folder / 'refused.json', sbatch_args='--partition=none', max_tries=0, retry_timeout=0
    )
    arguments = [dataset, folder / 'refused', tiny_model, '--participant-label', '01']
    run = launch(*arguments, '--use-plugin', plugin)
    SLURM_REFUSES.check(run)
    (line,) = [line for line in run.stderr.splitlines() if line.startswith('synthseg-bids: error')]
    assert SLURM_REFUSES.says in line
    assert 'correct sbatch_args' in line
    SLURM_REFUSES.check_next(launch(*arguments))
