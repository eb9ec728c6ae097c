"""``examples/slurm_array.sh``: jobs of an array write one output tree, another one ends it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from app import Run, contents, launch, write_description, write_image
from cluster import cancel, fields, wait_until
from other_faults import ARRAY_TASK

from synthseg_bids.files import read_table

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).parents[2] / 'examples' / 'slurm_array.sh'
ENDED = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> Path:
    """Three participants, in a folder whose name has a blank."""
    raw = tmp_path_factory.mktemp('array') / 'my data' / 'raw'
    write_description(raw, 'Toy')
    for seed, participant in enumerate(('01', '02', '03')):
        write_image(raw / f'sub-{participant}/anat/sub-{participant}_T1w.nii.gz', seed=seed)
    return raw


def submit(raw: Path, out: Path, *more: object) -> tuple[int, int]:
    """Return the numbers of the array and of the job that depends on it."""
    environment = {
        **os.environ,
        'TASKS': '3',
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        # The script asks for more than small machines have.
        'CPUS': '1',
        'SBATCH_MEM_PER_NODE': '2G',
        'TMPDIR': str(raw.parent),
    }
    done = subprocess.run(
        [SCRIPT, raw, out, *map(str, more)], env=environment, cwd=raw.parent,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    array, group = re.findall(r'job (\d+)', done.stdout)
    return int(array), int(group)


def state(job: object) -> str:
    return fields(job)['JobState']


def log(raw: Path, array: int, task: object) -> str:
    return (raw.parent / f'synthseg-bids-{array}_{task}.log').read_text()


def arguments(model: Path) -> list[object]:
    return ['--model', model, '--device', 'cpu', '--skip-bids-validation']


def test_tasks_share_an_output_tree(dataset, tiny_model):
    out = dataset.parent / 'array' / 'out'
    array, group = submit(dataset, out, *arguments(tiny_model))
    assert fields(group)['Dependency'].startswith(f'afterany:{array}')
    wait_until(lambda: state(group) in ENDED, 900)
    assert state(group) == 'COMPLETED', log(dataset, array, 'group')
    for task in (1, 2, 3):
        assert '1 done, 0 skipped, 0 failed' in log(dataset, array, task)
    rows = read_table(out / 'group_status.tsv')
    assert [row['status'] for row in rows] == ['done'] * 3
    # At least two of them were at work at once.
    tasks = [fields(f'{array}_{task}') for task in (1, 2, 3)]
    spans = sorted((task['StartTime'], task['EndTime']) for task in tasks)
    assert spans[1][0] < spans[0][1]
    # All is as if a single run had made it, and nothing of the work is left.
    single = launch(dataset, dataset.parent / 'single' / 'out', tiny_model)
    assert (single.code, single.stdout) == (0, '3 done, 0 skipped, 0 failed\n')
    assert contents(out) == contents(single.out)
    assert not list(dataset.parent.glob('tmp.*'))


def test_cancelled_task_leaves_the_others_and_is_done_next_time(dataset, tiny_model):
    out = dataset.parent / 'cancelled' / 'out'
    array, group = submit(dataset, out, *arguments(tiny_model))
    wait_until(lambda: state(f'{array}_1') == 'RUNNING')
    cancel(f'{array}_1')
    wait_until(lambda: state(group) in ENDED, 900)
    assert state(group) == 'COMPLETED'
    ARRAY_TASK.check(Run(out, state(f'{array}_1'), '', log(dataset, array, 1)))
    assert len(list(out.glob('sub-*/anat/*_dseg.json'))) == 2
    array, group = submit(dataset, out, *arguments(tiny_model))
    wait_until(lambda: state(group) in ENDED, 900)
    assert log(dataset, array, 1).splitlines()[-1] == ARRAY_TASK.again
    assert len(list(out.glob('sub-*/anat/*_dseg.json'))) == 3
    assert contents(out) == contents(dataset.parent / 'array' / 'out')
