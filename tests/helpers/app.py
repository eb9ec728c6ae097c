"""Run the BIDS App in processes of its own; for the tests of the command line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from synthseg_bids.app.main import main
from synthseg_bids.cli.main import main as synthseg
from synthseg_bids.files import read_table
from synthseg_bids.models.card import ModelCard, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D

APP = [sys.executable, '-W', 'ignore', '-m', 'synthseg_bids.app.main']
GOOD = [
    'sub-01/anat/sub-01_T1w.nii.gz',
    'sub-01/anat/sub-01_T2w.nii',
    'sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_FLAIR.nii.gz',
]


def save_tiny_model(path: Path, seed: int = 0) -> Path:
    """Write a network of random weights."""
    torch.manual_seed(seed)
    config = NetworkConfig(features=4, levels=3, norm='instance', norm_placement='conv')
    save_model(path, UNet3D(config), ModelCard(name='tiny', network=config, spacing_mm=4.0))
    return path


def write_image(
    path: Path,
    shape: Sequence[int] = (9, 10, 11),
    seed: int = 0,
    spacing: Sequence[float] = (8.0, 8.0, 9.0),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).random(shape).astype('f4')
    image = nib.Nifti1Image(data, np.diag([-spacing[0], *spacing[1:], 1]))
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, path)


def write_description(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {'Name': name, 'BIDSVersion': '1.10.1', 'Authors': ['A. One', 'B. Two']}
    (folder / 'dataset_description.json').write_text(json.dumps(content))


@dataclass
class Run:
    out: Path
    code: int | str
    stdout: str
    stderr: str

    def status(self) -> dict[str, dict[str, str]]:
        rows = read_table(self.out / 'group_status.tsv')
        return {row['source'].removeprefix('bids:raw:'): row for row in rows}


def options(raw: Path, out: Path, model: Path, *more: object) -> list[str]:
    """Return the arguments of a run; one thread, since tiny images gain nothing from more."""
    fixed = ['participant', '--model', model, '--device', 'cpu', '--omp-nthreads', 1]
    fixed += ['--nprocs', 2, '-w', out.parent / 'work', '--skip-bids-validation']
    return [str(part) for part in (raw, out, *fixed, *more)]


def launch(raw: Path, out: Path, model: Path, *more: object, **kwargs) -> Run:
    command = [*APP, *options(raw, out, model, *more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)
    return Run(out, done.returncode, done.stdout, done.stderr)


def run_here(raw: Path, out: Path, model: Path, *more: object) -> Run:
    """Run the app in this process, node after node, which takes less time than :func:`launch`."""
    return call(options(raw, out, model, *node_after_node(out), *more), out)


def node_after_node(out: Path) -> list[object]:
    """Return the option that makes the app run node after node in its own process."""
    plugin = out.with_name('linear.toml')
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.write_text('plugin = "Linear"\n')
    return ['--use-plugin', plugin]


def program_here(command: Sequence[str]) -> int:
    """Run a command line of one of our programs in this process; return its exit code.

    Benchmarks start such commands in processes of their own, each of which imports PyTorch anew.
    """
    program, *words = command
    if program == 'synthseg':
        return int(synthseg(words))
    out = Path(words[1])
    run = call([*words, *map(str, node_after_node(out))], out)
    return int(run.code)


def call(argv: Sequence[str], out: Path) -> Run:
    """Run the app in this process."""
    stdout, stderr, root = io.StringIO(), io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # The app writes its log to stderr where nobody else has set up logging, as pytest has.
    root.handlers.clear()
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            code = main(argv)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return Run(out, code, stdout.getvalue(), stderr.getvalue())


def contents(out: Path) -> dict[str, bytes]:
    """Read all that a run leaves but what tells about the run itself: logs, times, reports."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob('*'))
        if path.is_file()
        and path.suffix != '.html'
        and path.name != 'group_status.tsv'
        and 'logs' not in path.relative_to(out).parts
    }


def write_filter(folder: Path) -> Path:
    """Write a filter file: no sessions, and any run of T1w; returns it."""
    query = {suffix: {'session': None} for suffix in ('t1w', 't2w', 'flair', 'pdw')}
    query['t1w']['run'] = '*'
    path = folder / 'filter.json'
    path.write_text(json.dumps(query))
    return path
