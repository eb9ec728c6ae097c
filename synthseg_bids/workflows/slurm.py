"""Run every node as a Slurm job."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins import SLURMPlugin

from .crashes import JOB_LOST, JOB_LOST_SIGN, CrashReporter, PluginError

logger = logging.getLogger(__name__)

#: Default number of jobs at once; clusters limit waiting jobs.
MAX_JOBS = 100
#: Interval between queries of all jobs' states, to limit the load of Slurm.
ASK_EVERY_S = 1.0
#: Wait after Slurm has refused a job because of the user's limit, and its message.
TOO_MANY_S, TOO_MANY = 10.0, 'MaxSubmit'


class SlurmPlugin(CrashReporter, SLURMPlugin):
    """Nipype's SLURM plugin, with which a killed job fails one node, not the run.

    Takes the arguments of SLURM (``sbatch_args``, ``template``, ``max_jobs``, ...) and of
    :class:`CrashReporter`.

    Raises
    ------
    PluginError
        If there is no Slurm here, or if it refuses a job.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        if shutil.which('sbatch') is None:
            raise PluginError(
                'plugin SLURM: there is no sbatch here; run where jobs are submitted'
            )
        super().__init__(plugin_args={'max_jobs': MAX_JOBS, **(plugin_args or {})})
        self._queued: set[int] = set()
        self._asked = 0.0

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run all nodes of a graph; see nipype's DistributedPluginBase."""
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            # Jobs that are left after an interrupt or the first crash.
            if self._pending:
                _run('scancel', *map(str, self._pending))

    def _submit_batchtask(self, scriptfile: str, node: Any) -> int:
        """Submit a script; Nipype's own method does not notice failures."""
        # If the job is killed before it starts, Nipype would use the result of an earlier run,
        # perhaps with another model.
        for path in Path(node.output_dir()).glob('result_*.pklz'):
            path.unlink()
        log = str(Path(scriptfile).parent / 'slurm-%j.out')
        command = ['sbatch', '--parsable', f'--output={log}', f'--job-name={_job_name(node)}']
        # The user's options come last and override ours.
        command += shlex.split(f'{node.plugin_args["sbatch_args"]} {self._sbatch_args or ""}')
        attempt = 0
        while attempt <= self._max_tries:
            with _no_interruption():
                done = _run(*command, scriptfile)
                if done.returncode == 0:
                    job = int(done.stdout.split(';')[0])
                    self._pending[job] = node.output_dir()
                    self._queued.add(job)
                    return job
            if TOO_MANY in done.stderr:
                logger.info('Slurm takes no more jobs now; waiting for others to end')
                time.sleep(TOO_MANY_S)
                continue
            attempt += 1
            time.sleep(self._retry_timeout if attempt <= self._max_tries else 0)
        lines = done.stderr.strip().splitlines() or ['sbatch failed']
        raise PluginError(f'{lines[-1]}; correct sbatch_args of the plugin')

    def _is_pending(self, taskid: int) -> bool:
        """Return whether a job is queued or running; the last known state if Slurm is busy."""
        if time.monotonic() - self._asked > ASK_EVERY_S:
            done = _run('squeue', '--noheader', '--format=%A', f'--user={os.getuid()}')
            self._asked = time.monotonic()
            if done.returncode == 0:
                self._queued = {int(word) for word in done.stdout.split()}
        return taskid in self._queued

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        result = super()._get_result(taskid)
        if result and JOB_LOST_SIGN in ''.join(result['traceback'] or ''):
            result['traceback'] = [f'JobLostError: {JOB_LOST}{_why_lost(taskid)}\n']
        return result


def _job_name(node: Any) -> str:
    """Reverse the parts of a node's name, since squeue shows only the beginning."""
    return '.'.join(reversed(node.fullname.split('.')))


def _why_lost(job: int) -> str:
    """Return Slurm's state of a job that has ended, and its log; empty if Slurm has forgotten."""
    text = _run('scontrol', 'show', 'job', str(job)).stdout
    state, log = (re.search(rf'\b{field}=(.*)', text) for field in ('JobState', 'StdOut'))
    return f': {state[1].split()[0]}; see {log[1]}' if state and log else ''


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a Slurm program."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        logger.debug('%s: %s', shlex.join(command), done.stderr.strip())
    return done


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Block signals, so that the number of a submitted job is always recorded."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
