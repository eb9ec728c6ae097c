"""Nipype plugins with which a killed worker fails one node, not the run.

Nipype's MultiProc waits for ever when a worker is killed (``kill -9``, out of memory): the shared
process pool breaks, and all running tasks are lost without a message. Here every worker has a pool
of its own, so that only its task is lost. The task is run again, alone; if its worker is killed
again, the node fails and the others continue.
"""

from __future__ import annotations

import gc
import logging
import os
import pdb
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import DistributedPluginBase
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from ..hardware.processes import PRELOADED
from .crashes import WORKER_KILLED, CrashReporter, PluginError
from .slurm import SlurmPlugin

#: Longest wait for the end of a task, in case that its event is missed.
_MAX_WAIT_S = 1


class InlinePlugin(CrashReporter, DistributedPluginBase):
    """Run one node after the other in this process, for debugging.

    With the argument ``debug``, Python's debugger opens where the code of a node fails.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args={**(plugin_args or {}), 'max_jobs': 1})
        self._done: dict[int, dict[str, Any]] = {}

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        taskid = len(self._done)
        if self.plugin_args.get('debug'):
            # Nipype keeps only the text of an exception.
            node.interface._run_interface = partial(_run_or_debug, node.interface._run_interface)
        self._done[taskid] = run_node(node, updatehash, taskid)
        return taskid

    def _get_result(self, taskid: int) -> dict[str, Any]:
        return self._done[taskid]

    def _clear_task(self, taskid: int) -> None:
        self._done[taskid] = {}


def _run_or_debug(run: Callable[[Any], Any], runtime: Any) -> Any:
    """Run the code of a node, and open the debugger where it fails."""
    try:
        return run(runtime)
    except Exception as error:
        print(f'{type(error).__name__}: {error}')
        pdb.post_mortem(error.__traceback__)
        raise


class IsolatedMultiProcPlugin(CrashReporter, MultiProcPlugin):
    """MultiProc with a process pool for each worker.

    Takes the arguments of MultiProc and :class:`CrashReporter`, ``log_file``, to which workers
    append, and ``monitor``, to measure the resources of every node (in ``usage``).
    ``status_callback`` is also called with the status ``killed``, before a second try.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self.usage: list[dict[str, Any]] = []
        self._pools: list[ProcessPoolExecutor] = []
        # Idle workers with and without a network, and a GPU context, in memory: there are no more
        # with one than segmentations at once.
        self._idle: dict[bool, list[ProcessPoolExecutor]] = {True: [], False: []}
        self._tasks: dict[int, tuple[Any, bool]] = {}
        # Tasks whose worker was killed: waiting for their second try, and after it.
        self._lost: list[int] = []
        self._tried_again: set[int] = set()
        self._task_ended = threading.Event()

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run all nodes of a graph; see nipype's DistributedPluginBase."""
        # We wait for events instead of polling.
        execution = {**config['execution'], 'poll_sleep_duration': 0}
        try:
            super().run(graph, {**config, 'execution': execution}, updatehash=updatehash)
        finally:
            gc.unfreeze()
            self._stop_workers()

    def _new_pool(self) -> ProcessPoolExecutor:
        context = get_context(self.plugin_args.get('mp_context', 'forkserver'))
        context.set_forkserver_preload(PRELOADED)
        pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self._cwd, self.plugin_args.get('log_file')),
        )
        self._pools.append(pool)
        return pool

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        self._tasks[self._taskid] = node, updatehash
        self._start(self._taskid)
        return self._taskid

    def _start(self, taskid: int) -> None:
        node, updatehash = self._tasks[taskid]
        run = run_measured if self.plugin_args.get('monitor') else run_node
        idle = self._idle[hasattr(node.inputs, 'use_gpu')]
        pool = idle.pop() if idle else self._new_pool()
        try:
            future = pool.submit(run, node, updatehash, taskid)
        except BrokenProcessPool:  # its worker was killed while it had nothing to do
            pool = self._new_pool()
            future = pool.submit(run, node, updatehash, taskid)
        self._task_obj[taskid] = future
        future.add_done_callback(partial(self._collect, pool, idle, taskid))

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        """Return the result of a task; None if its worker was killed for the first time."""
        result = super()._get_result(taskid)
        if result is None or not result.get('killed') or taskid in self._tried_again:
            return result
        del self._taskresult[taskid]
        self._lost.append(taskid)
        if self._status_callback:
            self._status_callback(self._tasks[taskid][0], 'killed')
        return None

    def _clear_task(self, taskid: int) -> None:
        super()._clear_task(taskid)
        del self._tasks[taskid]

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Start all tasks that fit; a second try runs alone."""
        at_work = {taskid for taskid, _ in self.pending_tasks} - {*self._lost}
        if self._lost and not at_work:
            self._end_idle_workers()
            taskid = self._lost.pop(0)
            self._tried_again.add(taskid)
            self._start(taskid)
        elif not self._lost and not at_work & self._tried_again:
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        if self.pending_tasks:
            self._task_ended.wait(_MAX_WAIT_S)
            self._task_ended.clear()

    def _end_idle_workers(self) -> None:
        """End idle workers, to free their memory."""
        for pools in self._idle.values():
            while pools:
                pool = pools.pop()
                self._pools.remove(pool)
                pool.shutdown()

    def _sort_jobs(self, jobids: Any, scheduler: str = 'tsort') -> list[int]:
        """Put nodes with predecessors first: finish an image before starting the next."""
        return sorted(jobids, key=lambda job: not self._has_predecessor[job])

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        self._has_predecessor = [graph.in_degree(node) > 0 for node in self.procs]
        # Nipype collects garbage whenever it looks for nodes to start; this excludes nodes and
        # modules, which would make it slow.
        gc.collect()
        gc.freeze()

    def _collect(
        self,
        pool: ProcessPoolExecutor,
        idle: list[ProcessPoolExecutor],
        taskid: int,
        future: Future,
    ) -> None:
        """Store the result of a task and signal its end; called by a thread of its pool."""
        self._store_result(pool, idle, taskid, future)
        self._task_ended.set()

    def _store_result(
        self,
        pool: ProcessPoolExecutor,
        idle: list[ProcessPoolExecutor],
        taskid: int,
        future: Future,
    ) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            idle.append(pool)
            result = future.result()
            if 'usage' in result:
                self.usage.append(result.pop('usage'))
            self._taskresult[taskid] = result
            return
        killed = isinstance(error, BrokenProcessPool)
        if killed:
            traceback = [f'WorkerKilledError: {WORKER_KILLED}\n']
        else:
            idle.append(pool)
            traceback = format_exception(type(error), error, error.__traceback__)
        self._taskresult[taskid] = {
            'result': None,
            'traceback': traceback,
            'taskid': taskid,
            'killed': killed,
        }

    def _stop_workers(self) -> None:
        self.pool.shutdown(wait=False)
        # The processes of a pool and the thread that manages them are not public.
        threads = [pool._executor_manager_thread for pool in self._pools]
        for pool in self._pools:
            # Running tasks, after an interrupt or the first crash, would delay the exit.
            if pool not in self._idle[True] + self._idle[False]:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
        # Python would join them at its end, with an error for threads that end at the same time.
        for thread in filter(None, threads):
            thread.join()  # type: ignore[attr-defined]


#: Plugins whose nodes run on this machine.
LOCAL_PLUGINS = ('MultiProc', 'Linear')


def make_plugin(name: str, plugin_args: dict[str, Any]) -> Any:
    """Return a Nipype plugin by its name.

    Parameters
    ----------
    name : str
        ``MultiProc``, ``Linear`` and ``SLURM`` are ours (:class:`IsolatedMultiProcPlugin`,
        :class:`InlinePlugin`, :class:`synthseg_bids.workflows.slurm.SlurmPlugin`).
    plugin_args : dict

    Raises
    ------
    PluginError
        If there is no such plugin, or it returns before the jobs have ended.
    """
    check_plugin(name)
    if name == 'MultiProc':
        return IsolatedMultiProcPlugin(plugin_args)
    if name == 'Linear':
        return InlinePlugin(plugin_args)
    if name == 'SLURM':
        return SlurmPlugin(plugin_args)
    base = getattr(plugins, f'{name}Plugin')
    return type(base.__name__, (CrashReporter, base), {})(plugin_args=plugin_args)


def check_plugin(name: str) -> None:
    """Raise :class:`PluginError` if a plugin cannot be used."""
    known = [*LOCAL_PLUGINS] + [
        attribute.removesuffix('Plugin')
        for attribute, value in vars(plugins).items()
        if isinstance(value, type)
        and issubclass(value, DistributedPluginBase)
        and 'MultiProc' not in attribute
    ]
    if name not in known:
        raise PluginError(
            f'plugin {name}: cannot be used; use one that waits for its jobs: {", ".join(known)}'
        )


def run_measured(node: Any, updatehash: bool, taskid: int) -> dict[str, Any]:
    """Run a node in a worker and measure its time and memory."""
    _reset_peak_memory()
    started, before = time.monotonic(), os.times()
    result = run_node(node, updatehash, taskid)
    after = os.times()
    result['usage'] = {
        'node': node.fullname,
        'seconds': time.monotonic() - started,
        'cpu_seconds': sum(after[:4]) - sum(before[:4]),
        'peak_memory_mb': _peak_memory_mb(),
    }
    return result


def _reset_peak_memory() -> None:
    # Resets the peak of the process on Linux. Elsewhere it includes earlier nodes of the worker.
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def _peak_memory_mb() -> float:
    try:
        status = Path('/proc/self/status').read_text()
        return int(re.findall(r'VmHWM:\s+(\d+) kB', status)[0]) / 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def _start_worker(cwd: str, log_file: str | None) -> None:
    """Prepare a worker process: folder, logging."""
    os.chdir(cwd)
    # Nothing else ends this process if its parent is killed.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Nipype's own handler writes to stdout, which is for results only.
    logging.getLogger('nipype').handlers[:] = [logging.NullHandler()]
    if log_file:
        logging.basicConfig(level=logging.INFO, handlers=[log_handler(log_file)])
        logging.captureWarnings(True)


def log_handler(path: str | Path) -> logging.Handler:
    """Return a handler that appends to a file, and tolerates full disks and invalid UTF-8."""
    handler = logging.FileHandler(path, encoding='utf-8', errors='backslashreplace')
    handler.setFormatter(logging.Formatter('%(asctime)s %(name)s %(levelname)s: %(message)s'))
    # The default prints a traceback for every line that cannot be written.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    return handler


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
