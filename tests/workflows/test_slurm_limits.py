"""What the Slurm here cannot be made to do: limits of users, which need a database of accounts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from synthseg_bids.workflows import slurm
from synthseg_bids.workflows.crashes import PluginError
from synthseg_bids.workflows.slurm import SlurmPlugin

SBATCH = """#!/bin/sh
echo x >> {calls}
[ $(wc -l < {calls}) -gt {refusals} ] && echo 7 && exit
echo "sbatch: error: {what}" >&2
exit 1
"""
LIMIT = 'QOSMaxSubmitJobPerUserLimit'


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a program that stands in for one of Slurm first in the PATH; its calls are counted."""
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setattr(slurm, 'TOO_MANY_S', 0)

    def write(name: str, script: str, **words: object) -> Path:
        calls = tmp_path / f'{name}.calls'
        (tmp_path / name).write_text(script.format(calls=calls, **words))
        (tmp_path / name).chmod(0o755)
        return calls

    return write


def submit(folder: Path, plugin: SlurmPlugin) -> int:
    node = SimpleNamespace(
        output_dir=lambda: str(folder), fullname='wf.node', plugin_args={'sbatch_args': ''}
    )
    return plugin._submit_batchtask(str(folder / 'script.sh'), node)


def test_a_limit_of_jobs_is_waited_for(install, tmp_path, caplog):
    caplog.set_level('INFO')
    calls = install('sbatch', SBATCH, refusals=5, what=LIMIT)
    plugin = SlurmPlugin({'max_tries': 0})
    assert submit(tmp_path, plugin) == 7
    assert len(calls.read_text().splitlines()) == 6
    assert 'waiting for others to end' in caplog.text


def test_other_refusals_are_not(install, tmp_path):
    calls = install('sbatch', SBATCH, refusals=9, what='Invalid partition')
    with pytest.raises(PluginError, match='Invalid partition; correct sbatch_args'):
        submit(tmp_path, SlurmPlugin({'max_tries': 2, 'retry_timeout': 0}))
    assert len(calls.read_text().splitlines()) == 3


def test_slurm_is_asked_for_all_jobs_at_once(install, tmp_path, monkeypatch):
    install('sbatch', SBATCH, refusals=0, what='')
    asked = install('squeue', '#!/bin/sh\necho "$@" >> {calls}\nprintf "5\\n6\\n"\n')
    monkeypatch.setattr(slurm, 'ASK_EVERY_S', 3600)
    plugin = SlurmPlugin()
    assert plugin.max_jobs == slurm.MAX_JOBS
    plugin._asked = -3601.0 + slurm.time.monotonic()
    assert [plugin._is_pending(job) for job in (5, 6, 7)] == [True, True, False]
    assert len(asked.read_text().splitlines()) == 1
    assert f'--user={os.getuid()}' in asked.read_text()
    # What was submitted since then is there.
    assert submit(tmp_path, plugin) == 7
    assert plugin._is_pending(7)
    # A controller that does not answer knows no more than before.
    install('squeue', '#!/bin/sh\nexit 1\n')
    plugin._asked = -3601.0 + slurm.time.monotonic()
    assert plugin._is_pending(5)
