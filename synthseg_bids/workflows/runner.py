"""Run the workflow of a dataset and account for every image."""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from nipype import config as nipype_config
from nipype.pipeline.engine import Workflow

from synthseg_bids.bids.plan import ImageTask
from synthseg_bids.bids.save import output_files
from synthseg_bids.bids.status import Outcome
from synthseg_bids.errors import describe
from synthseg_bids.files import read_table, write_table
from synthseg_bids.progress import Progress

from .crashes import Crash, PluginError
from .dataset import init_synthseg_wf
from .intermediate import drop_damaged, note_results
from .multiproc import make_plugin
from .resources import Resources

logger = logging.getLogger(__name__)

_KILLED = 'its worker process was killed (out of memory, or by a signal)'


def execute(
    tasks: Sequence[ImageTask],
    ledger: Ledger,
    out_dir: Path,
    *,
    base_dir: Path,
    name: str,
    log_dir: Path,
    resources: Resources,
    plugin: tuple[str, dict[str, Any]] = ('MultiProc', {}),
    stop_on_first_crash: bool = False,
    graph: bool = False,
    monitor: bool = False,
    **options: Any,
) -> None:
    """Segment some images.

    Parameters
    ----------
    tasks : sequence of ImageTask
    ledger : Ledger
        Collects their outcomes.
    out_dir : Path
        Root of the output dataset.
    base_dir : Path
        Working directory.
    name : str
        Name of the workflow, and of its folder in the working directory.
    log_dir : Path
        Folder of workers' logs and of crash files.
    resources : Resources
    plugin : tuple of str and dict
        Name of a plugin of Nipype and its arguments.
    stop_on_first_crash : bool
        Start no more nodes once an image has failed.
    graph : bool
        Draw the workflow to ``graph.svg`` in the log folder.
    monitor : bool
        Write time and memory of every node to ``resources.tsv`` in the log folder.
    **options
        For :func:`init_synthseg_wf`.
    """
    _configure_nipype(base_dir, log_dir, stop_on_first_crash)
    workflow = init_synthseg_wf(
        tasks, out_dir, resources=resources, crash_dir=log_dir, name=name, **options
    )
    workflow.base_dir = str(base_dir)
    for task in tasks:
        subject = f'sub-{task.image.entities["sub"]}'.replace('+', 'plus')
        drop_damaged(base_dir / name / subject / task.name)
    if graph:
        _draw(workflow, log_dir)
    plugin_name, plugin_args = plugin
    request_resources(workflow, str(plugin_args.get('sbatch_args', '')))
    runner = make_plugin(
        plugin_name,
        {
            'n_procs': resources.scheduler_procs,
            'n_gpu_procs': resources.n_gpu_procs,
            'memory_gb': resources.total_mem_gb,
            'raise_insufficient': False,
            'mp_context': 'forkserver',
            'log_file': str(log_dir / 'synthseg-bids.log'),
            'monitor': monitor,
            **plugin_args,
            'status_callback': ledger.on_status,
            'on_crash': ledger.on_crash,
        },
    )
    try:
        workflow.run(plugin=runner)
    except PluginError:
        raise
    except Exception as error:
        # A summary of the crashes that were reported already; without crashes, our own error.
        if not runner.crashes:
            raise
        logger.debug('%s', error)
    finally:
        if monitor:
            _write_usage(log_dir / 'resources.tsv', runner)


def _draw(workflow: Workflow, log_dir: Path) -> None:
    """Draw a workflow, or write it as text if Graphviz is missing."""
    dot = log_dir / 'graph.dot'
    workflow.write_hierarchical_dotfile(str(dot), colored=True)
    if shutil.which('dot') is None:
        logger.warning('%s: not drawn, since Graphviz (dot) is not installed', dot)
        return
    command = ['dot', '-Tsvg', '-o', str(dot.with_suffix('.svg')), str(dot)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        logger.warning('%s: dot could not draw it (%s)', dot, done.stderr.strip())


def request_resources(workflow: Workflow, given: str) -> None:
    """Request each node's resources from Slurm, except those in the user's options.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
    given : str
        Options of sbatch for all nodes.
    """
    options = _sbatch_options(given)
    memory, gpus = (any(name.startswith(kind) for name in options) for kind in ('--mem', '--gpus'))
    gres = options.get('--gres', '')
    for node in workflow._get_all_nodes():
        wanted = []
        if '--cpus-per-task' not in options:
            threads = getattr(node.inputs, 'num_threads', node.n_procs)
            wanted.append(f'--cpus-per-task={threads}')
        if not memory:
            wanted.append(f'--mem={max(1, ceil(node.mem_gb))}G')
        if node.is_gpu_node() and not gpus and 'gpu' not in gres:
            # The user's --gres comes last and would override ours.
            wanted.append('--gpus=1' if gres else '--gres=gpu:1')
        node.plugin_args = {'sbatch_args': ' '.join(wanted)}


#: Short options of sbatch and their long names.
_SHORT = {'-c': '--cpus-per-task', '-G': '--gpus'}


def _sbatch_options(given: str) -> dict[str, str]:
    """Parse options of sbatch; short names that matter to us become long ones."""
    options: dict[str, str] = {}
    name = ''
    for word in shlex.split(given):
        if word.startswith('--'):
            name, _, options[name] = word.partition('=')
        elif word.startswith('-') and len(word) > 1:
            name = _SHORT.get(word[:2], word[:2])
            options[name] = word[2:]
        elif name:
            options[name], name = word, ''
    # Not an amount of memory, unlike other options that start with --mem.
    options.pop('--mem-bind', '')
    return options


def _write_usage(path: Path, runner: Any) -> None:
    """Append the resources of nodes to a table."""
    if not hasattr(runner, 'usage'):
        logger.warning('--resource-monitor: only with the plugin MultiProc')
        return
    columns = ('node', 'seconds', 'cpu_seconds', 'peak_memory_mb')
    write_table(path, columns, [*read_table(path), *runner.usage])


def _configure_nipype(base_dir: Path, log_dir: Path, stop_on_first_crash: bool) -> None:
    base_dir.mkdir(parents=True, exist_ok=True)
    nipype_config.update_config(
        {
            'execution': {
                'hash_method': 'content',
                'poll_sleep_duration': 0.1,
                'stop_on_first_crash': stop_on_first_crash,
                'crashdump_dir': str(log_dir),
                'crashfile_format': 'txt',
                'create_report': False,
                'check_version': False,
            },
            'logging': {'workflow_level': 'INFO', 'log_to_file': False},
        }
    )


class Ledger:
    """Outcome of each image, collected while nodes end.

    Parameters
    ----------
    tasks : sequence of ImageTask
    """

    def __init__(self, tasks: Sequence[ImageTask]) -> None:
        self.tasks = list(tasks)
        self._by_name = {task.name: task for task in tasks}
        self._outcomes: dict[str, Outcome] = {}
        self._running: set[str] = set()
        self._failed: set[str] = set()
        self._killed: set[str] = set()
        #: Line of progress, drawn while this context is open.
        self.progress = Progress(len(self.tasks), 'image')
        #: Provenance of each segmented image, by BIDS URI.
        self.provenance: dict[str, dict[str, Any]] = {}

    def on_status(self, node: Any, status: str) -> None:
        """Record that a node started or ended; called by Nipype."""
        task = self._task_of(node.fullname)
        if status == 'start' and node.name == 'segment':
            self._running.add(task.name)
            self._show()
            logger.info('%s: started', task.image.relative)
        if status == 'killed':
            self._killed.add(task.name)
            logger.warning('%s: %s; again, with no other beside it', task.image.path, _KILLED)
        if status == 'end':
            note_results(Path(node.output_dir()))
        if status != 'end' or node.name != 'save':
            return
        outputs = node.result.outputs
        notes = [f'{_KILLED}; done when tried again'] if task.name in self._killed else []
        notes += outputs.notes or []
        self.provenance[task.source] = outputs.provenance
        outcome = Outcome(
            task.image.relative,
            'done',
            reason='; '.join(notes),
            seconds=outputs.provenance['Seconds'],
            device=outputs.provenance['Device'],
            peak_gpu_mb=outputs.provenance.get('PeakGPUMemoryMB'),
        )
        self._settle(task, outcome)
        count, left = self.progress.n_ended, self.progress.time_left()
        logger.info(
            '%s: done (%d of %d images)%s', task.image.relative, count, len(self.tasks), left
        )
        for note in outputs.notes or []:
            logger.warning('%s: %s', outcome.relative, note)

    def on_crash(self, crash: Crash) -> None:
        """Record that a node failed; called by the plugin."""
        task = self._task_of(crash.node)
        # The output dataset is the folder above logs/<run>.
        parts = Path(crash.crash_file).parts
        crash_file = '/'.join(parts[parts.index('logs', -4) :]) if parts else ''
        source = f'{task.image.path}: '
        reason = crash.reason.removeprefix(source)
        if not task.image.path.exists():
            # Nipype's message would be about an undefined input.
            reason = 'No such file any more; put it back, then run the same command again'
        self._settle(task, Outcome(task.image.relative, 'failed', reason, crash_file))
        logger.error('%s%s', source, reason)

    def abandon(self, tasks: Sequence[ImageTask], error: Exception) -> None:
        """Record images as failed whose whole workflow has failed."""
        left = [task for task in tasks if task.name not in self._outcomes]
        reason = f'not finished: {describe(error)}'
        for task in left:
            self._settle(task, Outcome(task.image.relative, 'failed', reason))
        logger.error('%d images %s', len(left), reason)
        logger.debug('workflow', exc_info=error)

    def drop(self, task: ImageTask) -> None:
        """Record an image that another run has segmented in the meantime."""
        self._settle(task, Outcome(task.image.relative, 'current', 'up to date'))

    def finished(self) -> list[Outcome]:
        """List the outcomes so far."""
        return [self._outcomes[task.name] for task in self.tasks if task.name in self._outcomes]

    def close(self, out_dir: Path, **outputs: Any) -> list[Outcome]:
        """Check that all outputs exist, and record images that were not reached.

        Parameters
        ----------
        out_dir : Path
            Root of the output dataset.
        **outputs
            See :meth:`~synthseg_bids.bids.plan.ImageTask.kinds`.

        Returns
        -------
        list of Outcome
            One per task.
        """
        never = 0
        for task in self.tasks:
            outcome = self._outcomes.get(task.name)
            if outcome is None:
                reason = 'not run: stopped before its turn came, or before its end'
                self._outcomes[task.name] = Outcome(task.image.relative, 'failed', reason)
                never += 1
            elif outcome.status == 'done':
                # Not if no reference could be used, as the notes explain.
                kinds = [kind for kind in task.kinds(**outputs) if kind != 'dice']
                missing = [f for f in output_files(task.stem, kinds) if not (out_dir / f).exists()]
                if missing:
                    outcome.status, outcome.reason = 'failed', f'missing: {", ".join(missing)}'
                    logger.error('%s: %s', task.image.path, outcome.reason)
        if never:
            logger.error('%d images were not reached', never)
        return [self._outcomes[task.name] for task in self.tasks]

    def _settle(self, task: ImageTask, outcome: Outcome) -> None:
        """Keep the outcome of an image."""
        self._outcomes[task.name] = outcome
        self._running.discard(task.name)
        if outcome.status == 'failed':
            self._failed.add(task.name)
        self._show()

    def _show(self) -> None:
        n_ended, n_failed = len(self._outcomes), len(self._failed)
        counts = n_ended - n_failed, len(self._running), n_failed
        self.progress.show(n_ended, '{} done, {} running, {} failed'.format(*counts))

    def _task_of(self, node: str) -> ImageTask:
        return next(self._by_name[part] for part in node.split('.') if part in self._by_name)
