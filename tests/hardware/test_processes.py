"""Programs start with the memory settings that make them fast, and only once more."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from unittest.mock import patch

import pytest

from synthseg_bids.hardware.processes import VARIABLE, prepare_processes

library, version = platform.libc_ver()
pytestmark = pytest.mark.skipif(
    library != 'glibc' or tuple(map(int, version.split('.')[:2])) < (2, 35),
    reason='the C library does not know the settings',
)
PROGRAM = """
import os, sys
from synthseg_bids.hardware.processes import restart_with_settings
print('start', os.getpid(), *sys.argv[1:], flush=True)
restart_with_settings()
print(os.environ.get('GLIBC_TUNABLES'))
"""


def run(tmp_path, **settings: str) -> list[str]:
    program = tmp_path / 'program.py'
    program.write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k not in (VARIABLE, 'LD_PRELOAD')}
    done = subprocess.run(
        [sys.executable, program, 'a b', '--option'],
        env=environment | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_restarts_once_as_the_same_process(tmp_path):
    first, second, settings = run(tmp_path)
    assert first == second
    assert first.endswith('a b --option')
    assert 'glibc.malloc.hugetlb=1' in settings


@pytest.mark.parametrize(
    'settings', [{VARIABLE: 'glibc.malloc.arena_max=2'}, {'LD_PRELOAD': 'libm.so.6'}]
)
def test_leaves_what_the_user_chose(tmp_path, settings):
    lines = run(tmp_path, **settings)
    assert len(lines) == 2
    assert lines[1] == str(settings.get(VARIABLE))


def test_older_libraries_are_left_alone(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv('LD_PRELOAD', raising=False)
    for found in (('glibc', '2.31'), ('musl', '1.2')):
        monkeypatch.setattr(platform, 'libc_ver', lambda found=found: found)
        prepare_processes()
        assert VARIABLE not in os.environ


@pytest.mark.parametrize(
    ('chosen', 'expected'),
    [({}, '1000'), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'active'}, None)],
)
def test_idle_threads_sleep_unless_the_user_chose_otherwise(chosen, expected):
    with patch.dict(os.environ, chosen, clear=True):
        prepare_processes()
        assert os.environ.get('GOMP_SPINCOUNT') == expected


def test_imports_are_not_searched_for_garbage():
    code = (
        'import gc\n'
        'from synthseg_bids.hardware.processes import importing\n'
        'with importing():\n'
        '    assert not gc.isenabled()\n'
        '    import json\n'
        'assert gc.isenabled() and gc.get_freeze_count() > 1000\n'
        'gc.disable()\n'
        'with importing():\n'
        '    pass\n'
        'assert not gc.isenabled()\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_workers_are_forked_from_a_process_that_has_imported():
    code = (
        'import gc, multiprocessing, sys\n'
        'from concurrent.futures import ProcessPoolExecutor\n'
        'from synthseg_bids.hardware.processes import start_fork_server\n'
        'start_fork_server()\n'
        "with ProcessPoolExecutor(1, multiprocessing.get_context('forkserver')) as pool:\n"
        '    assert pool.submit(gc.get_freeze_count).result() > 100_000\n'
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
