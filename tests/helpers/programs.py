"""Programs of other methods, or what stands in for them, laid out as their installers do."""

from __future__ import annotations

import sys
from pathlib import Path

STAND_INS = Path(__file__).parents[1] / 'stand_ins'


def install_samseg(root: Path, version: str = '0.4a0') -> Path:
    """Lay out an environment with the package samseg; returns its program."""
    about = root / f'lib/python3.11/site-packages/samseg-{version}.dist-info' / 'METADATA'
    about.parent.mkdir(parents=True)
    about.write_text(f'Metadata-Version: 2.1\nName: samseg\nVersion: {version}\n')
    return _install(root / 'bin' / 'run_samseg', 'samseg.py')


def install_freesurfer(root: Path, version: str = '8.0.0') -> Path:
    """Lay out FreeSurfer with its own SynthSeg; returns its program."""
    root.mkdir(parents=True)
    (root / 'VERSION.txt').write_text(f'{version}\n')
    return _install(root / 'bin' / 'mri_synthseg', 'synthseg.py')


def _install(path: Path, stand_in: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_INS / stand_in} "$@"\n')
    path.chmod(0o755)
    return path
