from __future__ import annotations

import gc
import os
import signal
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.external.methods import METHODS, OURS
from synthseg_bids.interfaces import SegmentImage
from synthseg_bids.workflows import Resources, init_image_wf, init_synthseg_wf
from synthseg_bids.workflows.crashes import JOB_LOST, WORKER_KILLED, PluginError, find_reason
from synthseg_bids.workflows.multiproc import IsolatedMultiProcPlugin, check_plugin, make_plugin
from synthseg_bids.workflows.resources import plan_resources
from synthseg_bids.workflows.runner import request_resources


def record(name: str, participant: str = '1') -> ImageRecord:
    path = Path(f'/raw/{name}.nii')
    return ImageRecord(path, path.name, {'sub': participant}, 'T1w', stem=name)


def test_image_workflow_nodes():
    assert {n.rsplit('.', 1)[-1] for n in init_image_wf().list_node_names()} == {
        'inputnode',
        'segment',
        'measure',
        'assess',
        'plot',
        'outputnode',
    }
    workflow = init_image_wf(compare=True, resources=Resources(threads=3))
    segment = workflow.get_node('segment')
    assert (segment.n_procs, segment.inputs.num_threads) == (3, 3)
    assert workflow.get_node('compare') is not None


def test_memory_is_that_of_the_method_or_what_is_asked_for():
    segment = init_image_wf().get_node('segment')
    assert segment.mem_gb == METHODS[OURS].mem_gb
    assert not segment.inputs.low_memory
    small = init_image_wf(resources=Resources(mem_gb=1.5, low_memory=True), autocrop=False)
    segment = small.get_node('segment')
    assert segment.mem_gb == 1.5
    assert segment.inputs.low_memory
    assert not segment.inputs.autocrop


def test_gpu_node_takes_one_slot_whatever_its_threads():
    resources = Resources(('cuda:0', 'cuda:1'), 2, nprocs=8, threads=2, lock_dir='/locks')
    segment = init_image_wf(resources=resources).get_node('segment')
    assert segment.is_gpu_node()
    assert (segment.n_procs, segment.inputs.num_threads) == (1, 2)
    assert segment.inputs.devices == ['cuda:0', 'cuda:1']
    assert resources.n_gpu_procs == 4
    assert segment.inputs.gpu_fallback
    stay = replace(resources, gpu_fallback=False)
    assert not init_image_wf(resources=stay).get_node('segment').inputs.gpu_fallback


def test_every_image_is_saved_and_crashes_go_to_its_subject(tmp_path):
    images = [record('sub-1_T1w'), record('sub-1_T2w'), record('sub-2_acq-a+b_T1w', '2')]
    workflow = init_synthseg_wf(images, tmp_path, crash_dir=tmp_path / 'crash', name='wf')
    saved = [n for n in workflow.list_node_names() if n.endswith('save')]
    assert saved == [
        'sub-1.sub-1_T1w.save',
        'sub-1.sub-1_T2w.save',
        'sub-2.sub-2_acq-aplusb_T1w.save',
    ]
    for name in saved:
        config = workflow.get_node(name).config['execution']
        assert config['crashdump_dir'] == str(tmp_path / 'crash' / name.partition('.')[0])


@pytest.mark.parametrize(
    ('nprocs', 'wanted', 'threads', 'at_once', 'scheduled'),
    [(2, None, 2, 1, 3), (16, None, 8, 2, 17), (4, 1, 1, 4, 4), (5, 2, 2, 2, 5), (2, 9, 2, 1, 3)],
)
def test_processors_are_not_oversubscribed(nprocs, wanted, threads, at_once, scheduled):
    plan = plan_resources('cpu', nprocs=nprocs, omp_nthreads=wanted)
    assert (plan.threads, plan.n_segmentations, plan.n_gpu_procs) == (threads, at_once, 0)
    assert plan.scheduler_procs == scheduled
    assert plan.scheduler_procs // plan.threads == at_once


def test_memory_limits_how_many_run_at_once():
    plan = plan_resources('cpu', nprocs=8, omp_nthreads=1, total_mem_gb=9)
    assert plan.total_mem_gb == 9
    assert replace(plan, mem_gb=2.0).n_segmentations == 4
    assert replace(plan, mem_gb=100.0).n_segmentations == 1
    assert plan_resources('cpu', nprocs=1).total_mem_gb > 0.1


def test_cluster_jobs_ask_for_what_they_need():
    resources = plan_resources('cuda', nprocs=4, omp_nthreads=3, elsewhere=True)
    assert (resources.devices, resources.lock_dir) == (('cuda',), '')
    workflow = init_image_wf(resources=replace(resources, mem_gb=3.2))
    request_resources(workflow, '--partition=x')
    asked = {n.name: n.plugin_args['sbatch_args'] for n in workflow._get_all_nodes()}
    assert asked['segment'] == '--cpus-per-task=3 --mem=4G --gres=gpu:1'
    assert asked['measure'] == '--cpus-per-task=1 --mem=1G'


@pytest.mark.parametrize(
    ('given', 'asked'),
    [
        ('--partition=x --mem-per-cpu=20G --gpus=h100:1', '--cpus-per-task=3'),
        ('--mem 8G -c 2 -G 1', ''),
        ('-c2 --gpus-per-node=1', '--mem=4G'),
        # Names that look like those of resources.
        ('--partition=long-GPU -A lab-Gamma', '--cpus-per-task=3 --mem=4G --gres=gpu:1'),
        ('--mem-bind=local --gres=gpu:a100:1', '--cpus-per-task=3 --mem=4G'),
        ('--gres=lscratch:20', '--cpus-per-task=3 --mem=4G --gpus=1'),
    ],
)
def test_what_the_user_asks_for_counts(given, asked):
    resources = plan_resources('cuda', nprocs=4, omp_nthreads=3, elsewhere=True)
    workflow = init_image_wf(resources=replace(resources, mem_gb=3.2))
    request_resources(workflow, given)
    segment = workflow.get_node('segment')
    assert segment.plugin_args['sbatch_args'] == asked


def test_only_plugins_that_wait_are_used():
    for name in ('MultiProc', 'Linear', 'SLURM', 'SGE'):
        check_plugin(name)
    for name in ('SLURMGraph', 'None', 'LegacyMultiProc'):
        with pytest.raises(PluginError, match=f'plugin {name}: .* use one that waits .*: Multi'):
            check_plugin(name)


def test_without_slurm_there_is_one_line(monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(PluginError, match='plugin SLURM: there is no sbatch here'):
        make_plugin('SLURM', {})


def test_processors_default_to_those_we_may_use():
    assert plan_resources('cpu').nprocs == len(os.sched_getaffinity(0))


def test_all_gpus_or_some_of_them(monkeypatch):
    torch = pytest.importorskip('torch')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    plan = plan_resources('auto', procs_per_gpu=2, nprocs=12, total_mem_gb=100)
    assert plan.devices == ('cuda:0', 'cuda:1', 'cuda:2')
    assert (plan.n_segmentations, plan.threads, plan.scheduler_procs) == (6, 2, 13)
    assert plan_resources('cuda', n_gpus=2, nprocs=4).devices == ('cuda:0', 'cuda:1')
    assert plan_resources('cuda:2', nprocs=4).devices == ('cuda:2',)
    assert plan_resources('auto', n_gpus=0, nprocs=4).devices == ('cpu',)
    with pytest.raises(ValueError, match='3 CUDA devices'):
        plan_resources('auto', n_gpus=4, nprocs=4)
    with pytest.raises(ValueError, match='leave one'):
        plan_resources('cuda', n_gpus=0, nprocs=4)


def test_reason_is_one_line():
    text = 'Traceback\n\nRuntimeError: out of cheese\n\n'
    assert find_reason(text) == 'RuntimeError: out of cheese'
    assert find_reason('') == 'unknown error'
    text = (
        'OSError: Job id (3) finished or terminated, but results file does not exist after\nNode'
    )
    assert find_reason(text) == JOB_LOST
    assert find_reason('OSError: first line\nSecond line') == 'OSError: first line'


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        (
            "PermissionError: [Errno 13] Permission denied: '/a/d\\'or.nii'",
            "/a/d'or.nii: Permission denied; change its permissions or choose another folder",
        ),
        (
            'OSError: [Errno 28] No space left on device',
            'No space left on device; free some space, then run the same command again',
        ),
        (
            "OSError: [Errno 5] Input/output error: '/a'",
            '/a: Input/output error; see to the disk or network file system, then run the same '
            'command again',
        ),
    ],
)
def test_reason_of_the_system_says_what_to_do(line, reason):
    masked = 'During handling\n\nFileNotFoundError: segment/result_segment.pklz\n'
    assert find_reason(f'Traceback\n{line}\n') == reason
    assert find_reason(f'Traceback\n{line}\n\n{masked}') == reason


def behave(how, number):
    import os
    import signal
    import time
    from pathlib import Path

    start = time.monotonic()
    time.sleep(0.2)
    Path(f'../{how}_{start}_{time.monotonic()}_.span').touch()
    tries = len(list(Path('..').glob(f'{how}_*.span')))
    if how == 'die' or (how == 'die once' and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == 'raise':
        raise ValueError('no good')
    return number


def run_workflow(folder: Path, behaviours: list[str], name: str = 'MultiProc', **execution):
    """Run a chain of two nodes for each behaviour, one of which dies or raises."""
    workflow = Workflow(name='wf', base_dir=str(folder))
    workflow.config['execution'] = {
        'poll_sleep_duration': 0.05,
        'crashdump_dir': str(folder / 'crash'),
        'crashfile_format': 'txt',
        'create_report': False,
        **execution,
    }
    for number, how in enumerate(behaviours):
        first, second = (
            Node(Function(['how', 'number'], ['number'], behave), name=f'{step}{number}')
            for step in ('first', 'second')
        )
        first.inputs.how, first.inputs.number, second.inputs.how = how, number, 'pass'
        workflow.connect(first, 'number', second, 'number')
    arguments = {'n_procs': 2, 'n_gpu_procs': 0, 'raise_insufficient': False, 'monitor': True}
    plugin = make_plugin(name, arguments)
    with patience(), suppress(RuntimeError):
        workflow.run(plugin=plugin)
    return plugin


@contextmanager
def patience(seconds: int = 400):
    """Let a test that hangs fail alone."""

    def give_up(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope='module', autouse=True)
def _no_telemetry():
    before = {key: os.environ.get(key) for key in ('NO_ET', 'NIPYPE_NO_ET')}
    os.environ.update(NO_ET='1', NIPYPE_NO_ET='1')
    yield
    for key, value in before.items():
        if value is None:
            del os.environ[key]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')
def test_killed_worker_is_replaced_once_and_fails_its_own_node_only(tmp_path):
    plugin = run_workflow(tmp_path, ['pass', 'die', 'raise', 'die once', 'pass', 'pass'])
    reasons = {crash.node: crash.reason for crash in plugin.crashes}
    assert reasons == {'wf.first1': WORKER_KILLED, 'wf.first2': 'ValueError: no good'}
    assert all(Path(crash.crash_file).exists() for crash in plugin.crashes)
    done = sorted(path.parent.name for path in tmp_path.glob('wf/second*/result_*.pklz'))
    assert done == ['second0', 'second3', 'second4', 'second5']
    # Of the one that was killed nothing is known.
    used = {usage['node']: usage for usage in plugin.usage}
    assert {*used} == {f'wf.first{n}' for n in (0, 2, 3, 4, 5)} | {f'wf.{name}' for name in done}
    assert all(usage['peak_memory_mb'] > 10 for usage in used.values())
    assert all(usage['cpu_seconds'] >= 0 for usage in used.values())
    # How, and from when to when, in the order of the beginnings.
    spans = sorted(
        (path.stem.split('_')[:3] for path in tmp_path.glob('wf/*.span')),
        key=lambda span: float(span[1]),
    )
    for how in ('die', 'die once'):
        _, again = (number for number, span in enumerate(spans) if span[0] == how)
        ends = [float(end) for _, _, end in spans[:again]]
        assert max(ends) < float(spans[again][1])
        assert all(float(start) > float(spans[again][2]) for _, start, _ in spans[again + 1 :])


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')
def test_the_end_of_a_node_is_not_waited_for_by_polling(tmp_path):
    frozen = gc.get_freeze_count()
    plugin = run_workflow(tmp_path, ['pass'] * 2, poll_sleep_duration=1000)
    assert not plugin.crashes
    assert len(list(tmp_path.glob('wf/second*/result_*.pklz'))) == 2
    # What the garbage collector was told to leave alone is its business again.
    assert gc.get_freeze_count() <= frozen


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_one_node_after_the_other(tmp_path):
    plugin = run_workflow(tmp_path, ['pass', 'raise', 'pass'], 'Linear')
    assert [(crash.node, crash.reason) for crash in plugin.crashes] == [
        ('wf.first1', 'ValueError: no good')
    ]
    done = sorted(path.parent.name for path in tmp_path.glob('wf/second*/result_*.pklz'))
    assert done == ['second0', 'second2']


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')
def test_gpu_slots_are_shared_by_workers(tmp_path, tiny_model, rng):
    """The processor stands in for a GPU of two slots."""
    workflow = Workflow(name='wf', base_dir=str(tmp_path))
    workflow.config['execution'] = {'poll_sleep_duration': 0.05, 'create_report': False}
    for number in range(3):
        image = tmp_path / f'{number}.nii.gz'
        nib.save(nib.Nifti1Image(rng.random((9, 9, 9)).astype('f4'), np.diag([8, 8, 8, 1])), image)
        segment = SegmentImage(
            in_file=str(image), model=str(tiny_model), use_gpu=True, devices=['cpu'],
            slots_per_device=2, lock_dir=str(tmp_path / 'locks'),
        )  # fmt: skip
        node = Node(segment, name=f'segment{number}', n_procs=1)
        node.inputs.num_threads = 1
        workflow.add_nodes([node])
    plugin = IsolatedMultiProcPlugin({'n_procs': 3, 'n_gpu_procs': 2})
    workflow.run(plugin=plugin)
    assert len(list(tmp_path.glob('wf/segment*/dseg.nii.gz'))) == 3
    assert {path.name for path in (tmp_path / 'locks').iterdir()} <= {'cpu_0.lock', 'cpu_1.lock'}
    # No third worker has loaded the network.
    assert len(plugin._pools) == 2


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')
def test_stop_on_first_crash(tmp_path):
    plugin = run_workflow(tmp_path, ['raise'] + ['pass'] * 6, stop_on_first_crash=True)
    assert len(plugin.crashes) == 1
    assert not list(tmp_path.glob('wf/second6/result_*.pklz'))
