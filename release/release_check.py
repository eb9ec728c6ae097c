"""Look at what would be published: build it, install it elsewhere and try it.

Usage: python release/release_check.py [--torch-index URL]

The commit that is checked out is built, not what has changed since. The wheel is installed
into a new environment, in versions of ``constraints.txt``, and segments a scan in another folder.
If all is well, wheel and sdist are in ``dist/``, ready to be uploaded.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from published_files import (
    disagreements,
    list_sdist,
    list_wheel,
    read_facts,
    sdist_problems,
    wheel_problems,
)

ROOT = Path(__file__).parents[1]
#: Numbers of voxels of the scan along each axis; of 1 mm.
SHAPE = (32, 30, 28)
LOGGER = logging.getLogger('release_check')


def main(argv: Sequence[str] | None = None) -> int:
    """Check the commit that is checked out.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    int
        0 if it can be published, else 1.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '--torch-index',
        metavar='URL',
        help="where pip finds PyTorch beside its own index, such as PyTorch's index of CPU builds",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    with tempfile.TemporaryDirectory(prefix='release-check-') as folder:
        problems, files = check(Path(folder), options.torch_index)
        for problem in problems:
            LOGGER.error('wrong: %s', problem)
        if problems:
            return 1
        shutil.rmtree(ROOT / 'dist', ignore_errors=True)
        (ROOT / 'dist').mkdir()
        for file in files:
            shutil.copy(file, ROOT / 'dist')
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            LOGGER.info('dist/%s: %d bytes, sha256 %s', file.name, file.stat().st_size, digest)
    return 0


def check(folder: Path, torch_index: str | None) -> tuple[list[str], list[Path]]:
    """Build and compare; if nothing is wrong so far, install and try.

    Parameters
    ----------
    folder : Path
        An empty one.
    torch_index : str, optional
        See ``--torch-index``.

    Returns
    -------
    problems : list of str
        What is wrong, a line each.
    files : list of Path
        Wheel and sdist.
    """
    source = folder / 'source'
    tracked = export(source)
    run(sys.executable, '-m', 'build', '--outdir', folder / 'dist', source)
    [wheel], [sdist] = (folder / 'dist').glob('*.whl'), (folder / 'dist').glob('*.tar.gz')
    run(sys.executable, '-m', 'twine', 'check', '--strict', wheel, sdist)
    LOGGER.info('metadata: accepted by twine check --strict')

    held = list_wheel(wheel)
    problems = wheel_problems(held, tracked) + sdist_problems(list_sdist(sdist), tracked)
    LOGGER.info('contents: %d files of the package in the wheel, looked at', len(held))
    images = ['docker', 'singularity', 'BUILDER=docker build', 'REVISION=none']
    facts = read_facts(source, wheel, run('make', '--dry-run', *images, cwd=source))
    problems += disagreements(facts)
    LOGGER.info('name, version, licence and summary compared: %s', ', '.join(facts))

    if not problems:
        programs = install(folder / 'env', wheel, source / 'constraints.txt', torch_index)
        problems = trial_problems(programs, folder / 'elsewhere', facts['wheel']['version'])
    return problems, [wheel, sdist]


def export(source: Path) -> list[str]:
    """Write the files of the commit that is checked out into a folder; return their names."""
    commit = run('git', 'rev-parse', '--short', 'HEAD', cwd=ROOT).strip()
    changed = run('git', 'status', '--porcelain', cwd=ROOT).splitlines()
    LOGGER.info('commit %s', commit)
    if changed:
        LOGGER.warning('not looked at: %d files that differ from the commit', len(changed))
    archive = source.with_suffix('.tar')
    run('git', 'archive', '--output', archive, 'HEAD', cwd=ROOT)
    shutil.unpack_archive(archive, source)
    return run('git', 'ls-tree', '-r', '--name-only', 'HEAD', cwd=ROOT).splitlines()


def install(env: Path, wheel: Path, constraints: Path, torch_index: str | None) -> Path:
    """Install a wheel into a new environment.

    Parameters
    ----------
    env : Path
        Where.
    wheel, constraints : Path
    torch_index : str, optional
        See ``--torch-index``.

    Returns
    -------
    Path
        Folder of the programs.
    """
    run(sys.executable, '-m', 'venv', env)
    pip = [env / 'bin' / 'python', '-m', 'pip', '--quiet']
    index = ['--extra-index-url', torch_index] if torch_index else []
    run(*pip, 'install', '--constraint', constraints, *index, 'torch')
    run(*pip, 'install', '--constraint', constraints, wheel)
    run(*pip, 'check')
    LOGGER.info('installed into a new environment; pip check finds nothing wrong')
    return env / 'bin'


def trial_problems(programs: Path, folder: Path, version: str) -> list[str]:
    """Use what is installed, from a folder where no checkout is.

    Parameters
    ----------
    programs : Path
        Folder of ``synthseg`` and the others.
    folder : Path
        New folder to work in.
    version : str
        What the programs should say of themselves.

    Returns
    -------
    list of str
        What is wrong, a line each.
    """
    folder.mkdir()
    scan, labels = folder / 'scan.nii.gz', folder / 'labels.nii.gz'
    nib.save(ball(), scan)
    code = 'import synthseg_bids; print(synthseg_bids.__file__)'
    module = Path(run(programs / 'python', '-c', code, cwd=folder).strip())
    problems = []
    if programs.parent not in module.parents:
        problems.append(f'installed wheel: the package is that of {module}')
    for program in ('synthseg', 'synthseg-bids', 'synthseg-bids-docker'):
        said = run(programs / program, '--version', cwd=folder).split()[-1]
        if said != version:
            problems.append(f'{program} --version: {said}, but the wheel has {version!r}')
    run(programs / 'synthseg', 'segment', scan, labels, '--volumes', 'volumes.tsv', cwd=folder)
    problems += label_map_problems(*map(nib.Nifti1Image.from_filename, (scan, labels)))
    LOGGER.info('synthseg segment: %s', ', '.join(sorted(p.name for p in folder.iterdir())))
    return problems


def ball() -> nib.Nifti1Image:
    """Make a scan: a ball in a shell, in noise, from left to right."""
    grid = np.indices(SHAPE) - (np.array(SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    radius = np.sqrt((grid**2).sum(axis=0))
    mean = np.select([radius < 8, radius < 12], [110.0, 80.0], 20.0)
    noise = np.random.default_rng(0).normal(0, 4, SHAPE)
    affine = nib.affines.from_matvec(np.diag((-1, 1, 1)), (20, -10, 5))
    return nib.Nifti1Image((mean + noise).astype(np.float32), affine)


def label_map_problems(scan: nib.Nifti1Image, labels: nib.Nifti1Image) -> list[str]:
    """Compare a label map with its scan: the grid is the same, and something was found."""
    problems = []
    if labels.shape != scan.shape or not np.allclose(labels.affine, scan.affine, atol=1e-4):
        problems.append('synthseg segment: the label map is not on the grid of the scan')
    if not np.any(np.asarray(labels.dataobj)):
        problems.append('synthseg segment: the label map is empty')
    return problems


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command that must work; what it printed is the error if it does not.

    Nothing of the checkout is in its environment.

    Returns
    -------
    str
        What it prints to standard output.
    """
    words = [str(word) for word in command]
    environ = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environ)
    if done.returncode:
        tail = '\n'.join((done.stdout + done.stderr).splitlines()[-20:])
        raise SystemExit(f'{" ".join(words)}: exit code {done.returncode}\n{tail}')
    return done.stdout


if __name__ == '__main__':
    sys.exit(main())
