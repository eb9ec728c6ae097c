"""Run nodes, here or on a cluster, so that a failure fails one node, not the run.

Nipype's MultiProc waits for ever when a worker is killed (``kill -9``, out of memory): the shared
process pool breaks, every running task is lost, and nobody is told. Here every worker has a pool
of its own, so the one task that it was running fails, is named, and the others go on.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import resource
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import DistributedPluginBase
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from synthseg_bids.errors import UsageError, explain

logger = logging.getLogger(__name__)

WORKER_KILLED = 'its worker process was killed (out of memory, or by a signal)'

JOB_LOST = 'its batch job ended without a result (killed, or out of memory or time)'

_ERROR = re.compile(r'^[\w.]+(Error|Exception|Interrupt|Exit): ')
_SYSTEM_ERROR = re.compile(
    r"""^\w+Error: \[Errno (?P<number>\d+)\] [^:]+(: (?P<path>(['"]).*\4))?$"""
)
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


class PluginError(UsageError):
    """A plugin cannot be used; the message is one line."""


class CrashReporter:
    """Tells about every node that fails; to be mixed into a plugin of Nipype.

    Its one more argument is ``on_crash``, called with every :class:`Crash`. They are gathered in
    ``crashes`` as well.
    """

    plugin_args: dict[str, Any]

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)  # type: ignore[call-arg]
        self.crashes: list[Crash] = []

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        result = result or {'result': None, 'traceback': []}
        # Text if a batch job ended without a result, which Nipype cannot report.
        traceback = ''.join(result['traceback'])
        lines = traceback.splitlines(keepends=True)
        # Before Nipype adds its own remarks to the traceback.
        try:
            crash_file = super()._report_crash(  # type: ignore[misc]
                node, result={**result, 'traceback': lines}
            )
        except OSError as error:  # a full disk, probably what the crash is about as well
            logger.warning('no crash file of %s (%s)', node.fullname, error.strerror)
            crash_file = ''
        crash = Crash(node.fullname, _reason(traceback), crash_file)
        self.crashes.append(crash)
        if on_crash := self.plugin_args.get('on_crash'):
            on_crash(crash)
        return crash_file


class InlinePlugin(CrashReporter, DistributedPluginBase):
    """One node after the other in this very process, for debugging."""

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args={**(plugin_args or {}), 'max_jobs': 1})
        self._done: dict[int, dict[str, Any]] = {}

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        taskid = len(self._done)
        self._done[taskid] = run_node(node, updatehash, taskid)
        return taskid

    def _get_result(self, taskid: int) -> dict[str, Any]:
        return self._done[taskid]

    def _clear_task(self, taskid: int) -> None:
        self._done[taskid] = {}


class IsolatedMultiProcPlugin(CrashReporter, MultiProcPlugin):
    """MultiProc with a process pool for each worker.

    Takes the arguments of MultiProc and :class:`CrashReporter`, ``log_file``, to which workers
    append, and ``monitor``: whether to measure what every node uses, gathered in ``usage``.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self.usage: list[dict[str, Any]] = []
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
        run = run_measured if self.plugin_args.get('monitor') else run_node
        idle = self._idle[hasattr(node.inputs, 'use_gpu')]
        pool = idle.pop() if idle else self._new_pool()
        try:
            future = pool.submit(run, node, updatehash, self._taskid)
        except BrokenProcessPool:  # its worker was killed while it had nothing to do
            pool = self._new_pool()
            future = pool.submit(run, node, updatehash, self._taskid)
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
            result = future.result()
            if 'usage' in result:
                self.usage.append(result.pop('usage'))
            self._taskresult[taskid] = result
            return
        if isinstance(error, BrokenProcessPool):
            traceback = [f'WorkerKilledError: {WORKER_KILLED}\n']
        else:
            idle.append(pool)
            traceback = format_exception(type(error), error, error.__traceback__)
        self._taskresult[taskid] = {'result': None, 'traceback': traceback, 'taskid': taskid}

    def _stop_workers(self) -> None:
        self.pool.shutdown(wait=False)
        for pool in self._pools:
            # Interrupted, or stopped at the first crash: what still runs would hold up our exit.
            # There is no public way to the process of a pool.
            if pool not in self._idle[True] + self._idle[False]:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


#: Plugins whose nodes run on this machine.
LOCAL_PLUGINS = ('MultiProc', 'Linear')


def make_plugin(name: str, plugin_args: dict[str, Any]) -> Any:
    """Return the plugin of Nipype of a name.

    Parameters
    ----------
    name : str
        ``MultiProc`` and ``Linear`` are ours (:class:`IsolatedMultiProcPlugin`,
        :class:`InlinePlugin`).
    plugin_args : dict

    Raises
    ------
    PluginError
        If there is no such plugin, or it returns before the work is done.
    """
    check_plugin(name)
    if name == 'MultiProc':
        return IsolatedMultiProcPlugin(plugin_args)
    if name == 'Linear':
        return InlinePlugin(plugin_args)
    # Nipype's SLURM wants to know who asks, also where nobody is logged in.
    os.environ.setdefault('LOGNAME', str(os.getuid()))
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
    """Run a node in a worker and tell how much time and memory it took."""
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
    # Linux forgets the peak of a process on this request. Elsewhere it is that of all nodes that
    # the worker has run so far.
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
    # Should the parent be killed, nobody else ends us.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Nipype's own handler writes to stdout, which is for results only.
    logging.getLogger('nipype').handlers[:] = [logging.NullHandler()]
    if log_file:
        logging.basicConfig(level=logging.INFO, handlers=[log_handler(log_file)])
        logging.captureWarnings(True)


def log_handler(path: str | Path) -> logging.Handler:
    """Return a handler that appends to a file, be its disk full or names not UTF-8."""
    handler = logging.FileHandler(path, encoding='utf-8', errors='backslashreplace')
    handler.setFormatter(logging.Formatter('%(asctime)s %(name)s %(levelname)s: %(message)s'))
    # By default a traceback on the terminal for every line that cannot be written.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    return handler


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
    if 'but results file does not exist' in traceback:
        return JOB_LOST
    # Messages of Nipype go on for lines, and errors before a node runs end in a complaint about
    # its result file.
    errors = [line for line in lines if _ERROR.match(line) and not line.endswith('.pklz')]
    last = errors[-1] if errors else lines[-1]
    if system := _SYSTEM_ERROR.match(last):
        path = ast.literal_eval(system['path']) if system['path'] else None
        return explain(int(system['number']), path)
    return _OUR_ERRORS.sub('', last).removeprefix('WorkerKilledError: ')
