"""What all parts do: call our programs, name model and machine, keep tables."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from page import cpu_name

from synthseg_bids.files import write_table
from synthseg_bids.hardware.device import fast_dtype, resolve_device
from synthseg_bids.models.card import ModelCard, read_card, sha256
from synthseg_bids.models.registry import model_path

#: What a part writes into its folder ``evaluation``, and the ends of the names they are kept by.
KEPT = {
    'dice_scans.tsv': 'scans.tsv',
    'dice_summary.tsv': 'summary.tsv',
    'structures.tsv': 'structures.tsv',
    'lesions.tsv': 'lesions.tsv',
}


def describe(args: argparse.Namespace) -> dict[str, str]:
    """Name the model and the machine."""
    weights = model_path(args.model)
    card = read_card(weights)
    device = resolve_device(args.device)
    hardware = f'{cpu_name()}, CPU threads: {torch.get_num_threads()}'
    if device.type == 'cuda':
        hardware = f'{torch.cuda.get_device_name(device)}; {hardware}'
    return {
        'Model': f'{card.name} ({card.spacing_mm:g} mm, {card.total_steps} steps)',
        'SHA-256': sha256(weights),
        **calibration(card),
        'Hardware': f'{hardware}, {str(fast_dtype(device)).removeprefix("torch.")}',
    }


def calibration(card: ModelCard) -> dict[str, str]:
    """Say how far the posteriors are from probabilities, if the card does."""
    facts = card.validation.get('calibration')
    if not facts:
        return {}
    return {
        'Calibration': (
            f'expected calibration error {facts["calibration_error"]:.4f}, '
            f'{facts["calibration_error_before"]:.4f} before it was calibrated '
            f'({", ".join(facts["fitted_on"])}; measured on {", ".join(facts["checked_on"])})'
        )
    }


def call(program: str, *arguments: object) -> tuple[int, str]:
    """Run one of our programs; return its exit code and the command line."""
    module = {'synthseg-bids': 'synthseg_bids.app.main', 'synthseg': 'synthseg_bids.cli.main'}
    words = [str(argument) for argument in arguments]
    command = [sys.executable, '-m', module[program], *words]
    return subprocess.run(command, check=False).returncode, shlex.join([program, *words])


def keep(work: Path, tables: Path, name: str, facts: dict[str, str]) -> None:
    """Copy tables and figure to the documentation, with the facts of the run."""
    tables.mkdir(parents=True, exist_ok=True)
    evaluation = work / 'evaluation'
    for file, kept in KEPT.items():
        if (evaluation / file).exists():
            shutil.copyfile(evaluation / file, tables / f'{name}_{kept}')
    for figure in evaluation.glob('dice_*.png'):
        shutil.copyfile(figure, tables / f'{name}.png')
    rows = [{'fact': key, 'value': value} for key, value in facts.items()]
    write_table(tables / f'{name}_run.tsv', ('fact', 'value'), rows)
