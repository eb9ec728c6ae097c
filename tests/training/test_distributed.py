"""Training in several processes: with torchrun, on this computer, over its loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ranks
import torch
from heads import write_heads
from watch import children, environment, wait_for_end, wait_until

from synthseg_bids.cli.main import main
from synthseg_bids.errors import UsageError
from synthseg_bids.hardware.device import DeviceError
from synthseg_bids.training.distributed import rank_device

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
TORCHRUN += ['--local-addr', '127.0.0.1', '--nproc-per-node', '2']
TRAIN = ['-m', 'synthseg_bids.cli', 'train']
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}
ENVIRONMENT['PYTHONWARNINGS'] = 'error::UserWarning'
PATIENCE_S = 400


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with three small heads of boxes."""
    return write_heads(tmp_path_factory.mktemp('maps'))


@pytest.fixture(scope='module')
def maps(folder):
    return ranks.load_maps(folder)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sum in the order in which the processes do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def several(folder, maps, tmp_path_factory) -> tuple[dict, dict, Path]:
    """What each of two processes has recorded, and the folder with their checkpoint."""
    out = tmp_path_factory.mktemp('several')
    with one_thread():
        ranks.make('adamw', maps, steps=3).train().save(out / 'single.pt')
    script = str(Path(ranks.__file__))
    done = subprocess.run(
        [*TORCHRUN, script, str(folder), str(out)], env=ENVIRONMENT,
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(out / f'rank{i}.pt', weights_only=True) for i in (0, 1))
    return first, second, out


def distance(a: dict, b: dict) -> float:
    """Return how far apart two networks are."""
    assert a.keys() == b.keys()
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize('name', ['adamw', 'muon', 'sub_voxels'])
def test_two_processes_are_as_one_of_twice_the_batch(several, maps, name):
    with one_thread():
        one = ranks.make(name, maps, batch_size=2).train().record()
        half = ranks.make(name, maps).train().record()
    two = several[0][name]
    for state in ('network', 'average'):
        # Rounding, beside what the samples of the other process make.
        assert distance(two[state], one[state]) < 0.02 * distance(half[state], one[state])
    assert two['losses'] == pytest.approx(one['losses'], rel=1e-4)
    assert (two['step'], two['samples']) == (one['step'], one['samples']) == (4, 8)
    for found, expected in zip(two['dice'], one['dice'], strict=True):
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('name', list(ranks.RUNS))
def test_processes_have_one_network_and_samples_of_their_own(several, name):
    first, second, _ = several
    first, second = first[name], second[name]
    assert distance(first['average'], second['average']) == 0
    if name != 'batch_norm':  # whose running averages are each process's own
        assert distance(first['network'], second['network']) == 0
    assert first['numbers'] == [0, 2, 4, 6]
    assert second['numbers'] == [1, 3, 5, 7]
    # All know the average loss, and the Dice of scans that others have validated on.
    assert first['losses'] == second['losses']
    assert first['dice'] == second['dice']
    assert len(first['dice']) == 2


def test_other_numbers_of_processes_go_on_with_the_next_sample(several, maps):
    first, second, out = several
    # One process has seen 0, 1, 2.
    assert (first['resumed']['numbers'], second['resumed']['numbers']) == ([3, 5], [4, 6])
    again = ranks.make('adamw', maps, steps=7)
    again.resume(out / 'several.pt')
    again.train()
    assert again.numbers == [7, 8]
    assert (again.step, again.samples) == (7, 9)


def test_checkpoints_without_a_count_of_samples(maps, tmp_path):
    run = ranks.make('adamw', maps, steps=2, batch_size=3).train()
    run.save(tmp_path / 'c.pt')
    state = torch.load(tmp_path / 'c.pt', weights_only=True)
    assert state.pop('samples') == 6
    torch.save(state, tmp_path / 'c.pt')
    resumed = ranks.make('adamw', maps, batch_size=3)
    resumed.resume(tmp_path / 'c.pt')
    assert resumed.samples == 6


def test_processes_that_are_not_at_one_place_end(several):
    for number, record in enumerate(several[:2]):
        assert record['error'].startswith(f'step {5 + number}: the processes of this run have')


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert rank_device('cuda:1') == torch.device('cuda:1')
    monkeypatch.setenv('WORLD_SIZE', '4')
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert rank_device('auto') == rank_device('cuda') == torch.device('cuda:1')
    assert rank_device('cpu') == torch.device('cpu')
    with pytest.raises(UsageError, match='--device cuda:1 with 4 processes'):
        rank_device('cuda:1')
    monkeypatch.setenv('LOCAL_RANK', '2')
    with pytest.raises(DeviceError, match='2 CUDA devices found'):
        rank_device('auto')


def options(folder: Path, out: Path, steps: int = 1_000_000) -> list[str]:
    words = [folder, out, '--steps', steps, '--features', 2, '--levels', 2, '--size', 16, 16, 16]
    words += ['--epoch-steps', 5, '--validate-on', 'map-2', '--device', 'cpu', '--threads', 1]
    return [str(word) for word in words]


@contextmanager
def started(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """Start a program that is killed in the end if it is still there."""
    with (
        open(log, 'w') as stream,
        subprocess.Popen(command, env=ENVIRONMENT | environment, stderr=stream) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def state(out: Path) -> dict:
    return torch.load(out / 'checkpoint.pt', weights_only=True)


def wait_until_written(out: Path, log: Path, after: float = 0) -> None:
    """Wait for a checkpoint, so that the run is past its start."""

    def written() -> bool:
        with suppress(FileNotFoundError):
            return (out / 'checkpoint.pt').stat().st_mtime > after
        return False

    wait_until(written, every_s=0.1, tell=log.read_text)


def workers(process: subprocess.Popen) -> dict[int, int]:
    """Return the process numbers of the ranks that a torchrun has started."""
    found = ((environment(child).get('RANK'), child) for child in children(process.pid))
    return {int(rank): child for rank, child in found if rank}


@pytest.mark.slow
def test_death_and_termination_of_a_run(folder, tmp_path):
    out, log = tmp_path / 'run', tmp_path / 'log'
    command = [*TORCHRUN, *TRAIN, *options(folder, out)]
    # A process that is killed ends the others; the last checkpoint stays whole.
    with started(command, log) as process:
        wait_until_written(out, log)
        pids = workers(process)
        os.kill(pids[1], signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 1
    assert 'synthseg: another process is lost; see what it says' in log.read_text()
    for pid in pids.values():
        wait_for_end(pid)
    killed = state(out)
    assert killed['step'] % 5 == 0
    assert killed['samples'] == 2 * killed['step']
    # The same command goes on. Terminated, it saves the step it is at.
    with started(command, log) as process:
        wait_until_written(out, log, after=(out / 'checkpoint.pt').stat().st_mtime)
        pids = workers(process)
        process.terminate()
        assert process.wait(PATIENCE_S) != 0
    assert f'resumed at step {killed["step"]}' in log.read_text()
    for pid in pids.values():
        wait_for_end(pid)
    terminated = state(out)
    assert f'interrupted; saving step {terminated["step"]}' in log.read_text()
    assert terminated['step'] > killed['step']
    # A single process may do the rest.
    steps = terminated['step'] + 2
    assert main(['train', *options(folder, out, steps)]) == 0
    last = state(out)
    assert (last['step'], last['samples']) == (steps, terminated['samples'] + 2)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_at_one_step(folder, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    together = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': '2'}
    out, logs = tmp_path / 'run', [tmp_path / f'log{i}' for i in (0, 1)]
    command = [sys.executable, *TRAIN, *options(folder, out)]
    with (
        started(command, logs[0], RANK='0', LOCAL_RANK='0', **together) as first,
        started(command, logs[1], RANK='1', LOCAL_RANK='1', **together) as second,
    ):
        wait_until_written(out, logs[0])
        second.send_signal(signal.SIGINT)
        assert [process.wait(PATIENCE_S) for process in (first, second)] == [130, 130]
    assert f'interrupted; saving step {state(out)["step"]}' in logs[0].read_text()
    # Only one of them speaks.
    assert logs[1].read_text() == ''


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_single_process_saves(folder, tmp_path, number):
    out = tmp_path / 'run'

    def interrupt() -> None:
        try:
            wait_until_written(out, Path(os.devnull))
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert main(['train', *options(folder, out)]) == 128 + number
    thread.join()
    saved = state(out)
    assert saved['step'] == saved['samples'] >= 5


@pytest.mark.slow
def test_a_checkpoint_of_another_network_ends_all(folder, tmp_path):
    """Errors of the user are one line, here as in a single process."""
    out = tmp_path / 'run'
    assert main(['train', *options(folder, out, 1)]) == 0
    before = (out / 'checkpoint.pt').read_bytes()
    other = [*options(folder, out), '--features', '4']
    done = subprocess.run(
        [*TORCHRUN, *TRAIN, *other], env=ENVIRONMENT, capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith('synthseg: ')]
    assert any('use the same options or another folder' in line for line in lines)
    assert (out / 'checkpoint.pt').read_bytes() == before
