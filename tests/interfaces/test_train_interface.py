"""Training as a node that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from heads import write_heads
from nipype.pipeline.engine import Node, Workflow
from safetensors.torch import load_file
from watch import wait_until

from synthseg_bids.files import read_table
from synthseg_bids.interfaces import SegmentImage, TrainSynthSeg
from synthseg_bids.models.registry import load_model
from synthseg_bids.training.run_folder import CHECKPOINT
from synthseg_bids.training.trainer import Trainer

STEPS, EPOCH = 16, 2


def training_node(maps: str, folder: str, seed: int = 0) -> Node:
    """Return a node that trains on small heads and keeps all its files."""
    node = Node(
        TrainSynthSeg(
            label_maps=sorted(str(path) for path in Path(maps).iterdir()),
            size=(16, 16, 16),
            seed=seed,
            network={'features': 2, 'levels': 2},
            training={'steps': STEPS, 'epoch_steps': EPOCH, 'warmup': 2},
        ),
        name='train',
        base_dir=folder,
    )
    # Whatever earlier tests have set: the process that is killed has not run them.
    execution = {'remove_unnecessary_outputs': 'false', 'hash_method': 'content'}
    node.config = {'execution': execution}
    return node


def start_and_kill(maps: Path, folder: Path) -> int:
    """Train in a process of its own, kill it after the first checkpoints; return its step."""
    code = (
        'import sys; sys.path[:0] = sys.argv[3:]; import test_train_interface as own;'
        'own.training_node(*sys.argv[1:3]).run()'
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / 'helpers')]
    command = [sys.executable, '-c', code, str(maps), str(folder), *paths]
    checkpoint = folder / 'train' / CHECKPOINT
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env) as child:
        wait_until(
            lambda: (
                child.poll() is not None or (checkpoint.exists() and step_of(checkpoint) > EPOCH)
            )
        )
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (folder / 'train' / 'result_train.pklz').exists()
    return step_of(checkpoint)


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)['step'])


def tensors(value: object) -> list[torch.Tensor]:
    """Return all tensors of a checkpoint, in order."""
    if isinstance(value, dict):
        return [found for key in value for found in tensors(value[key])]
    return [value] if isinstance(value, torch.Tensor) else []


@pytest.fixture(autouse=True, scope='module')
def _one_thread() -> Iterator[None]:
    """Sum in the same order as the process that is killed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def maps(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp('maps'))


@pytest.fixture(scope='module')
def killed(tmp_path_factory, maps):
    """Return the folder of a node that was killed, and the step of its checkpoint."""
    folder = tmp_path_factory.mktemp('killed')
    return folder, start_and_kill(maps, folder)


@pytest.fixture
def steps_made(monkeypatch):
    """Return the steps that trainers of this process start, one by one."""
    made: list[int] = []
    train_step = Trainer.train_step

    def counted(self):
        made.append(self.step)
        return train_step(self)

    monkeypatch.setattr(Trainer, 'train_step', counted)
    return made


@pytest.mark.slow
def test_a_killed_node_goes_on_to_the_same_weights(tmp_path, maps, killed, steps_made):
    folder, reached = killed
    assert EPOCH <= reached < STEPS
    resumed = training_node(maps, shutil.copytree(folder, tmp_path / 'again')).run().outputs
    assert steps_made == [*range(reached, STEPS)]
    steps_made.clear()
    whole = training_node(maps, tmp_path / 'whole').run().outputs
    assert steps_made == [*range(STEPS)]

    one, other = load_file(resumed.out_model), load_file(whole.out_model)
    assert {*one} == {*other}
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [
        torch.load(Path(outputs.out_model).with_name(CHECKPOINT), weights_only=True)
        for outputs in (resumed, whole)
    ]
    pairs = [*zip(*(tensors(state) for state in states), strict=True)]
    assert len(pairs) > 3 * len(one)
    assert all(torch.equal(a, b) for a, b in pairs)
    losses = [[row['loss'] for row in read_table(Path(o.out_curve))] for o in (resumed, whole)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS // EPOCH


@pytest.mark.slow
def test_other_inputs_start_anew(tmp_path, maps, killed, steps_made):
    training_node(maps, shutil.copytree(killed[0], tmp_path / 'again'), seed=1).run()
    assert steps_made == [*range(STEPS)]


def test_outside_of_a_node_nothing_is_taken_up(tmp_path, maps, steps_made, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        interface = training_node(maps, tmp_path, seed).interface
        interface.inputs.training = {'steps': 2, 'epoch_steps': 1}
        interface.run()
    assert steps_made == [0, 1, 0, 1]


def test_the_card_stays_beside_the_weights_in_a_workflow(tmp_path, maps):
    train = training_node(maps, '')
    train.inputs.training = {'steps': 1}
    train.config = None
    segment = Node(SegmentImage(in_file=str(next(maps.iterdir())), num_threads=1), name='segment')
    workflow = Workflow(name='both', base_dir=str(tmp_path))
    workflow.connect(train, 'out_model', segment, 'model')
    workflow.run('Linear')
    left = {path.name for path in (tmp_path / 'both' / 'train').iterdir()}
    assert {'model.safetensors', 'model.json'} <= left
    assert CHECKPOINT not in left
    assert load_model(tmp_path / 'both' / 'train' / 'model.safetensors')[1].labels
