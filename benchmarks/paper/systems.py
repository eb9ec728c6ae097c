"""The four systems: what is trained on what, and what is run on the scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthseg_bids.external.methods import METHODS, MissingProgramError, find_program
from synthseg_bids.models import DEFAULT_MODEL
from synthseg_bids.models.card import read_card
from synthseg_bids.models.registry import model_path
from synthseg_bids.training.real_scans import Pair, find_pairs

from .options import SIZES, TRAINED
from .steps import Step

REFERENCE = 'reference'
#: The paper's supervised network is trained on T1-weighted scans.
SUPERVISED_CONTRAST = 'T1w'
#: What "synthseg synthesize --steps" draws.
PICTURE = 'synth-0000_steps.png'


@dataclass(frozen=True)
class Run:
    """A system as it segments the scans: a trained network, or a program.

    Attributes
    ----------
    system : str
        A key of :data:`~paper.options.SYSTEMS`.
    trained_on : tuple of str
        Participants whose scans and references it has seen.
    number : int
        Of the group of participants; 0 if there is none.
    """

    system: str
    trained_on: tuple[str, ...] = ()
    number: int = 0

    @property
    def name(self) -> str:
        """Name of its folders."""
        return f'{self.system}-{self.number}' if self.number else self.system

    def seen(self, pair: Pair) -> str:
        """Say why a scan is no fair test of it; ``no`` if it is one."""
        if pair.scan.entities['sub'] in self.trained_on:
            return 'trained on'
        return 'own reference' if self.system in pair.reference.name else 'no'


def contrasts_seen(run: Run, pairs: Sequence[Pair]) -> list[str]:
    """List the contrasts of the scans that a run has seen."""
    own = {p.scan.suffix for p in pairs if p.scan.entities['sub'] in run.trained_on}
    return sorted(own & {SUPERVISED_CONTRAST} if run.system == 'supervised' else own)


def scans_with_references(args: argparse.Namespace) -> list[Pair]:
    """Find the scans to segment."""
    return find_pairs(args.bids, {REFERENCE: args.references})


def groups(args: argparse.Namespace, pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """Return the groups of participants to train on: by default two halves."""
    names = sorted({pair.scan.entities['sub'] for pair in pairs})
    return args.train_on or [tuple(names[half::2]) for half in (0, 1)]


def runs(args: argparse.Namespace, pairs: Sequence[Pair]) -> list[Run]:
    """List everything that segments the scans."""
    found = []
    for system in args.systems:
        if system in ('rule', 'supervised'):
            parts = enumerate(groups(args, pairs), 1)
            found += [Run(system, group, number) for number, group in parts]
        else:
            found.append(Run(system))
    return found


def training(args: argparse.Namespace, run: Run) -> list[Step]:
    """Return the steps that train the network of a run, the last one being the training."""
    folder = args.work / 'networks' / run.name
    settings = [*SIZES[args.size].split(), '--preset', args.preset, '--device', args.device]
    settings += ['--threads', str(args.threads)]
    settings += ['--steps', str(args.steps)] if args.steps else []
    real = ['--reference', f'{REFERENCE}={args.references}']
    real += ['--participant-label', *run.trained_on]
    before: tuple[Step, ...] = ()
    if run.system == 'rule':
        priors = args.work / 'priors' / run.name
        command = ('synthseg', 'estimate-priors', str(args.bids), str(priors / 'priors.json'))
        scans = (args.bids, args.references)
        before = (Step(priors, ((*command, *real),), ('priors.json',), inputs=scans),)
        settings += ['--priors', str(priors / 'priors.json')]
    if run.system == 'supervised':
        real += ['--contrast', SUPERVISED_CONTRAST]
        start = ['synthseg', 'train', str(folder), '--images', str(args.bids), *real]
        inputs = [args.bids, args.references]
    else:
        inputs = [args.label_maps]
        # The paper's labels are 33.
        start = ['synthseg', 'train', str(args.label_maps), str(folder), '--lesions', 'fold']
        settings += ['--validate-on', *args.held_out] if args.held_out else []
    commands, outputs = ((*start, *settings),), ('model.safetensors',)
    return [*before, Step(folder, commands, outputs, before, inputs=tuple(inputs))]


def segmentation(
    args: argparse.Namespace, run: Run, names: Sequence[str], before: Sequence[Step]
) -> Step:
    """Return the step that segments the scans of some participants."""
    out = args.work / 'derivatives' / run.name
    command = ['synthseg-bids', str(args.bids), str(out / 'tree'), 'participant']
    command += ['--participant-label', *names, '--omp-nthreads', str(args.threads)]
    command += ['--skip-bids-validation', '-w', str(out / 'work')]
    shipped = run.system == 'shipped'
    if run.system == 'samseg':
        command += ['--method', 'samseg']
    else:
        trained = args.work / 'networks' / run.name / 'model.safetensors'
        command += ['--model', DEFAULT_MODEL if shipped else str(trained)]
        command += ['--device', args.device]
    origin = read_card(model_path(DEFAULT_MODEL)).sha256 if shipped else ''
    outputs = ('tree/group_status.tsv',)
    # Scans that fail are absent from the tables, which say how many there are.
    return Step(out, (tuple(command),), outputs, tuple(before), True, (args.bids,), origin)


def evaluation(args: argparse.Namespace, run: Run, before: Sequence[Step]) -> Step:
    """Return the step that compares segmentations with the references."""
    out, origin = args.work / 'evaluation' / run.name, ''
    if run.system == 'samseg' and args.samseg_tree:
        # Made elsewhere, and perhaps still growing.
        origin = str(sorted(p.stat().st_mtime_ns for p in args.samseg_tree.rglob('*_dseg.nii.gz')))
    command = ('synthseg', 'evaluate', str(tree(args, run)), '--out', str(out),
               '--reference', f'{REFERENCE}={args.references}')  # fmt: skip
    outputs = ('dice_scans.tsv',)
    inputs = (args.references,)
    return Step(out, (command,), outputs, tuple(before), True, inputs, origin)


def tree(args: argparse.Namespace, run: Run) -> Path:
    """Return the data set with the segmentations of a run."""
    if run.system == 'samseg' and args.samseg_tree:
        return Path(args.samseg_tree)
    return Path(args.work / 'derivatives' / run.name / 'tree')


def absent(args: argparse.Namespace, run: Run) -> str:
    """Say why a run cannot be had; empty if it can."""
    if run.system != 'samseg':
        return ''
    if args.samseg_tree:
        there = args.samseg_tree.is_dir()
        return '' if there else f'{args.samseg_tree}: no such folder; give the tree of its results'
    try:
        find_program(METHODS['samseg'])
    except MissingProgramError as error:
        return str(error)
    return ''


def steps(args: argparse.Namespace, run: Run, names: Sequence[str]) -> list[Step]:
    """Return all steps of a run, in their order."""
    before = training(args, run) if run.system in TRAINED else []
    if not (run.system == 'samseg' and args.samseg_tree):
        before.append(segmentation(args, run, names, before[-1:]))
    return [*before, evaluation(args, run, before[-1:])]


def pictures(
    args: argparse.Namespace, found: Sequence[Run], pairs: Sequence[Pair]
) -> dict[str, Step]:
    """Return the steps that draw how a training scan is made, by their figures of the paper.

    Figure 2 is of random intensities, figure 3 of those of the priors, if they are estimated.
    """
    command = ['synthseg', 'synthesize', str(args.label_maps)]
    settings = ['--preset', args.preset, '--device', args.device, '--steps', '--size', '0']
    settings += ['--seed', '1']
    drawn = {'figure2': _picture(args.work / 'figure2', command, settings)}
    for run in found:
        if run.system == 'rule' and SUPERVISED_CONTRAST in contrasts_seen(run, pairs):
            before, *_ = training(args, run)
            settings += ['--priors', str(before.folder / before.outputs[0])]
            settings += ['--contrast', SUPERVISED_CONTRAST]
            drawn['figure3'] = _picture(args.work / 'figure3', command, settings, (before,))
            break
    return drawn


def _picture(
    folder: Path, command: list[str], settings: list[str], before: tuple[Step, ...] = ()
) -> Step:
    inputs = (Path(command[-1]),)
    return Step(folder, ((*command, str(folder), *settings),), (PICTURE,), before, inputs=inputs)
