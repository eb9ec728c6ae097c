"""A training run that test_distributed.py makes in one process, and torchrun in several."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from synthseg_bids.hardware.processes import leave
from synthseg_bids.models.unet import NetworkConfig
from synthseg_bids.synth.label_maps import LabelMap, find_label_maps, load_label_map
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.training.config import TrainingConfig
from synthseg_bids.training.distributed import ProcessError, ProcessGroup, join
from synthseg_bids.training.trainer import Trainer

#: Settings of the runs that are compared: name to configuration.
RUNS = {
    'adamw': TrainingConfig(
        network=NetworkConfig(features=2, levels=2, norm='instance', norm_placement='conv'),
        generator=replace(PRESETS['synthseg-bids'], size=(16, 16, 16), crop_jitter=2),
        steps=4,
        warmup=2,
        epoch_steps=2,
    )
}
RUNS['muon'] = replace(RUNS['adamw'], optimizer='muon')
RUNS['sub_voxels'] = replace(RUNS['adamw'], network=replace(RUNS['adamw'].network, sub_voxels=2))
RUNS['batch_norm'] = replace(RUNS['adamw'], network=replace(RUNS['adamw'].network, norm='batch'))


class Recorder(Trainer):
    """A trainer that remembers what it was asked for and what it said."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # bfloat16, where the processor has it, rounds too much to compare runs.
        self.dtype = torch.float32
        self.numbers, self.losses, self.dice = [], [], []

    def sample(self, number):
        self.numbers.append(number)
        return super().sample(number)

    def train(self) -> Recorder:
        self.run(
            lambda _, progress: self.dice.append(progress.dice),
            lambda _, loss: self.losses.append(loss),
        )
        return self

    def record(self) -> dict[str, object]:
        fields = ('step', 'samples', 'numbers', 'losses', 'dice')
        states = {name: getattr(self, name).state_dict() for name in ('network', 'average')}
        return {name: getattr(self, name) for name in fields} | states


def load_maps(folder: Path) -> list[LabelMap]:
    return [load_label_map(path) for path in find_label_maps(folder)]


def make(
    name: str, maps: list[LabelMap], ranks: ProcessGroup | None = None, **changes
) -> Recorder:
    """Prepare a run; two of the maps are validated on."""
    return Recorder(replace(RUNS[name], **changes), maps[:2], maps[1:], ranks=ranks)


def main(folder: Path, out: Path) -> None:
    """Do all runs as one of several processes, and go on with one of a single process."""
    torch.set_num_threads(1)
    maps = load_maps(folder)
    with join('cpu') as ranks:
        records = {name: make(name, maps, ranks).train().record() for name in RUNS}
        resumed = make('adamw', maps, ranks, steps=5)
        resumed.resume(out / 'single.pt')
        records['resumed'] = resumed.train().record()
        if ranks.rank == 0:
            resumed.save(out / 'several.pt')
        # One process is not where the others are.
        resumed.step += ranks.rank
        try:
            resumed.train()
        except ProcessError as error:
            records['error'] = str(error)
        torch.save(records, out / f'rank{ranks.rank}.pt')


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
