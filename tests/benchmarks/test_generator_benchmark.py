"""benchmarks/generator.py runs, and times all that the generator does. No time is judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from heads import write_heads

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'generator.py'


@pytest.mark.slow
def test_every_part_is_timed(tmp_path):
    path = write_heads(tmp_path, 1) / 'map-0_dseg.nii.gz'
    command = [sys.executable, str(SCRIPT), str(path), '--runs', '1', '--threads', '1']
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = ran.stdout.partition('synthseg-bids: ')[2]
    for part in (
        *('deform', 'textures', 'blur', 'bias field', 'ghosts', 'normalise', 'resolution'),
        *('rescale', 'whole sample'),
    ):
        assert f'  {part}' in ours
