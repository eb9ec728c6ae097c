"""Run every node as a job of Slurm."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins import SLURMPlugin

from .crashes import JOB_LOST, JOB_LOST_SIGN, CrashReporter, PluginError

logger = logging.getLogger(__name__)


class SlurmPlugin(CrashReporter, SLURMPlugin):
    """Nipype's SLURM, of which a job that is killed fails one node, not the run.

    Takes the arguments of SLURM (``sbatch_args``, ``template``, ``max_jobs``, ...) and of
    :class:`CrashReporter`.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        # Nipype wants to know who asks, also where nobody is logged in.
        os.environ.setdefault('LOGNAME', str(os.getuid()))
        super().__init__(plugin_args=plugin_args)

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run all nodes of a graph; see nipype's DistributedPluginBase."""
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            # Interrupted, or stopped at the first crash: nobody waits for them any more.
            if self._pending:
                _run('scancel', *map(str, self._pending))

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        # Should the job be killed before it begins, Nipype would take what an earlier run has
        # left, perhaps of another model, for its result.
        for path in Path(node.output_dir()).glob('result_*.pklz'):
            path.unlink()
        try:
            return super()._submit_job(node, updatehash)
        except RuntimeError as error:
            lines = str(error).splitlines()
            found = [line for line in lines if 'sbatch: error: ' in line] or lines[-1:]
            reason = found[-1].strip().removeprefix('sbatch: error: ')
            raise PluginError(f'sbatch: {reason}; correct sbatch_args of the plugin') from error

    def _submit_batchtask(self, scriptfile: str, node: Any) -> int:
        # Nipype looks for -o in the middle of words (--oversubscribe) and would then leave the
        # logs of jobs in the current folder. The last of two equal options counts: the user's.
        log = shlex.quote(str(Path(scriptfile).parent / 'slurm-%j.out'))
        needs = node.plugin_args.get('sbatch_args', '')
        arguments = f'-o {log} -e {log} {needs} {self._sbatch_args or ""}'
        node.plugin_args = {'sbatch_args': arguments, 'overwrite': True}
        return super()._submit_batchtask(shlex.quote(scriptfile), node)

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        result = super()._get_result(taskid)
        if result and JOB_LOST_SIGN in ''.join(result['traceback'] or ''):
            result['traceback'] = [f'JobLostError: {JOB_LOST}{_why_lost(taskid)}\n']
        return result


def _why_lost(taskid: int) -> str:
    """Say what Slurm knows about a job that has ended, as long as it remembers."""
    fields = dict(re.findall(r'(\w+)=(\S*)', _run('scontrol', 'show', 'job', str(taskid))))
    if 'JobState' not in fields:
        return ''
    log = fields.get('StdOut', '')
    return f': {fields["JobState"]}; see {log}'


def _run(*command: str) -> str:
    """Return what a program of Slurm prints, if it does."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        logger.debug('%s: %s', shlex.join(command), done.stderr.strip())
    return done.stdout
