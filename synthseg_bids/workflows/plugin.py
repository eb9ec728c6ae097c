"""Run nodes in parallel so that a killed worker fails one node, not the run.

Nipype's MultiProc waits for ever when a worker is killed (``kill -9``, out of memory): the shared
process pool breaks, every running task is lost, and nobody is told. Here every worker has a pool
of its own, so the one task that it was running fails, is named, and the others go on.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

WORKER_KILLED = 'its worker process was killed (out of memory, or by a signal)'

_OUR_ERRORS = re.compile(r'^synthseg_bids\.[\w.]+Error: ')


@dataclass(frozen=True)
class Crash:
    """A node that failed.

    Attributes
    ----------
    node : str
        Full name, parts separated by dots.
    reason : str
        One line.
    crash_file : str
        Path.
    """

    node: str
    reason: str
    crash_file: str


class IsolatedMultiProcPlugin(MultiProcPlugin):
    """MultiProc with a process pool for each worker.

    Takes the arguments of MultiProc and two more: ``log_file``, to which workers append, and
    ``on_crash``, called with every :class:`Crash`. They are gathered in ``crashes`` as well.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self.crashes: list[Crash] = []
        self._pools: list[ProcessPoolExecutor] = []
        # Idle workers with and without a network in memory: only so many have one, and a GPU
        # context, as segment at once.
        self._idle: dict[bool, list[ProcessPoolExecutor]] = {True: [], False: []}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run all nodes of a graph; see nipype's DistributedPluginBase."""
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            self._stop_workers()

    def _new_pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=get_context(self.plugin_args.get('mp_context', 'forkserver')),
            initializer=_start_worker,
            initargs=(self._cwd, self.plugin_args.get('log_file')),
        )
        self._pools.append(pool)
        return pool

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        idle = self._idle[hasattr(node.inputs, 'use_gpu')]
        pool = idle.pop() if idle else self._new_pool()
        try:
            future = pool.submit(run_node, node, updatehash, self._taskid)
        except BrokenProcessPool:  # its worker was killed while it had nothing to do
            pool = self._new_pool()
            future = pool.submit(run_node, node, updatehash, self._taskid)
        self._task_obj[self._taskid] = future
        future.add_done_callback(partial(self._collect, pool, idle, self._taskid))
        return self._taskid

    def _sort_jobs(self, jobids: Any, scheduler: str = 'tsort') -> list[int]:
        """Put nodes with predecessors first: finish an image before starting the next."""
        return sorted(jobids, key=lambda job: not self._has_predecessor[job])

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        self._has_predecessor = [graph.in_degree(node) > 0 for node in self.procs]

    def _collect(
        self,
        pool: ProcessPoolExecutor,
        idle: list[ProcessPoolExecutor],
        taskid: int,
        future: Future,
    ) -> None:
        """Store the result of a task; called by a thread of its pool."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            idle.append(pool)
            self._taskresult[taskid] = future.result()
            return
        if isinstance(error, BrokenProcessPool):
            traceback = [f'WorkerKilledError: {WORKER_KILLED}\n']
        else:
            idle.append(pool)
            traceback = format_exception(type(error), error, error.__traceback__)
        self._taskresult[taskid] = {'result': None, 'traceback': traceback, 'taskid': taskid}

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        # Before nipype adds its own remarks to the traceback.
        reason = _reason(''.join(result['traceback']) if result else '')
        crash = Crash(node.fullname, reason, super()._report_crash(node, result=result))
        self.crashes.append(crash)
        if on_crash := self.plugin_args.get('on_crash'):
            on_crash(crash)
        return crash.crash_file

    def _stop_workers(self) -> None:
        self.pool.shutdown(wait=False)
        for pool in self._pools:
            # Interrupted, or stopped at the first crash: what still runs would hold up our exit.
            # There is no public way to the process of a pool.
            if pool not in self._idle[True] + self._idle[False]:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(cwd: str, log_file: str | None) -> None:
    """Prepare a worker process: folder, logging."""
    os.chdir(cwd)
    # Should the parent be killed, nobody else ends us.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Nipype's own handler writes to stdout, which is for results only.
    logging.getLogger('nipype').handlers[:] = [logging.NullHandler()]
    if log_file:
        handler = logging.FileHandler(log_file)
        handler.setFormatter(logging.Formatter('%(asctime)s %(name)s %(levelname)s: %(message)s'))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        logging.captureWarnings(True)


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _reason(traceback: str) -> str:
    r"""Find the line of a traceback that says what went wrong.

    Examples
    --------
    >>> _reason('Traceback:\n\tsynthseg_bids.volume_io.InputImageError: a.nii: truncated\n')
    'a.nii: truncated'
    """
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    if not lines:
        return 'unknown error'
    return _OUR_ERRORS.sub('', lines[-1]).removeprefix('WorkerKilledError: ')
