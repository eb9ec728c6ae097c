from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import install_freesurfer, install_samseg
from watch import wait_for_end, wait_until

from synthseg_bids.external import kill_with_parent
from synthseg_bids.external.fs_stats import fold_volumes, read_volumes
from synthseg_bids.external.methods import METHODS, MissingProgramError, Program, find_program
from synthseg_bids.labels import channel_labels, fold_reference

SAMSEG, MRI_SYNTHSEG = METHODS['samseg'], METHODS['mri_synthseg']


def test_the_environment_variable_comes_before_the_path(tmp_path, monkeypatch):
    named = install_samseg(tmp_path / 'a b', '0.4a0')
    other = install_samseg(tmp_path / 'other', '0.5')
    monkeypatch.setenv('PATH', f'{other.parent}:{os.environ["PATH"]}')
    monkeypatch.delenv(SAMSEG.variable, raising=False)
    assert find_program(SAMSEG) == Program(SAMSEG, other, '0.5')
    monkeypatch.setenv(SAMSEG.variable, str(named))
    assert find_program(SAMSEG) == Program(SAMSEG, named, '0.4a0')


def test_a_link_to_a_program_has_the_version_of_its_target(tmp_path, monkeypatch):
    link = tmp_path / 'bin' / 'run_samseg'
    link.parent.mkdir()
    link.symlink_to(install_samseg(tmp_path / 'venv'))
    monkeypatch.setenv(SAMSEG.variable, str(link))
    assert find_program(SAMSEG).version == '0.4a0'


def test_versions_of_freesurfer_and_of_what_tells_none(tmp_path, monkeypatch):
    program = install_freesurfer(tmp_path / 'freesurfer', '7.4.1')
    monkeypatch.setenv(MRI_SYNTHSEG.variable, str(program))
    assert find_program(MRI_SYNTHSEG).version == 'FreeSurfer 7.4.1'
    (tmp_path / 'freesurfer' / 'VERSION.txt').unlink()
    unknown = find_program(MRI_SYNTHSEG).version
    assert unknown.startswith('sha256:')
    program.write_text(program.read_text() + '# changed\n')
    assert find_program(MRI_SYNTHSEG).version != unknown


@pytest.mark.parametrize('method', [SAMSEG, MRI_SYNTHSEG], ids=lambda method: method.name)
def test_a_missing_program_is_one_line_that_says_how_to_get_it(method, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv(method.variable, raising=False)
    with pytest.raises(MissingProgramError, match=rf'{method.program}: .* in the PATH; .*install'):
        find_program(method)
    monkeypatch.setenv(method.variable, str(tmp_path / 'none'))
    with pytest.raises(
        MissingProgramError, match=rf'in \${method.variable} \(.*/none\)'
    ) as caught:
        find_program(method)
    assert '\n' not in str(caught.value)


def test_options_follow_the_contrast_and_are_part_of_the_identity():
    samseg = Program(SAMSEG, Path('run_samseg'), '1')
    assert samseg.options('T1w') == samseg.options('PDw') == []
    assert samseg.options('FLAIR') == samseg.options('T2w') == ['pallidum_separate']
    assert samseg.identity('T2w') == {
        'MethodVersion': '1',
        'MethodOptions': ['pallidum_separate'],
    }
    assert Program(MRI_SYNTHSEG, Path('mri_synthseg'), '1').options('T1w', flip=False) == ['fast']


#: Of the real SAMSEG, its columns and a few of its rows.
STATS = """\
# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Volume, 1565543.000000, mm^3
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName
  1    2      100   100.500000 Left-Cerebral-White-Matter
  2    4       10    10.000000 Left-Lateral-Ventricle
  3   31        2     2.250000 Left-choroid-plexus
  4   41      100    90.000000 Right-Cerebral-White-Matter
  5   77        8     8.000000 WM-hypointensities
  6  165      999   999.000000 Skull
"""


def test_soft_volumes_are_folded_as_labels_are(tmp_path):
    path = tmp_path / 'samseg.fs.stats'
    path.write_text(STATS)
    volumes = read_volumes(path)
    assert volumes == {2: 100.5, 4: 10, 31: 2.25, 41: 90, 77: 8, 165: 999}
    labels = np.array([2, 2, 77, 41, 41, 77, 77, 77])[:, None, None]
    folded = fold_reference(labels)
    left = (folded[labels == 77] == 2).mean()
    assert 0 < left < 1
    soft = dict(zip(channel_labels(), fold_volumes(volumes, labels, folded), strict=True))
    assert soft[2] == pytest.approx(100.5 + 8 * left)
    assert soft[41] == pytest.approx(90 + 8 * (1 - left))
    assert soft[4] == 12.25
    assert soft[0] == 999
    assert sum(soft.values()) == pytest.approx(sum(volumes.values()))


def tethered(*command: str) -> list[str]:
    return [sys.executable, kill_with_parent.__file__, *command]


def run_tethered(script: str) -> int:
    with subprocess.Popen(tethered('/bin/sh', '-c', script), stdin=subprocess.PIPE) as process:
        return process.wait(60)


def test_exit_codes_and_signals_come_through_the_tether():
    assert run_tethered('exit 0') == 0
    assert run_tethered('exit 3') == 3
    assert run_tethered('kill -9 $$') == 128 + signal.SIGKILL


def test_the_program_is_killed_with_who_started_it(tmp_path):
    note = tmp_path / 'pid'
    # A program with a child of its own, started by a process that is killed.
    script = f'sleep 600 & echo $! $$ > {note}.part; mv {note}.part {note}; wait'
    code = (
        'import subprocess, sys, time\n'
        'subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n'
        'time.sleep(600)\n'
    )
    starter = subprocess.Popen([sys.executable, '-c', code, *tethered('/bin/sh', '-c', script)])
    try:
        wait_until(note.exists)
    finally:
        starter.kill()
        starter.wait()
    for pid in note.read_text().split():
        wait_for_end(int(pid))


def test_page_of_methods_is_that_of_the_code():
    docs = Path(__file__).parents[2] / 'docs'
    written = runpy.run_path(str(docs / 'build.py'))['page']('methods')
    assert written == (docs / 'methods.rst').read_text(), 'run docs/build.py methods'
    assert max(map(len, written.splitlines())) < 100
