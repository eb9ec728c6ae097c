"""Run the workflow of a dataset and account for every image."""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from nipype import config as nipype_config
from nipype.pipeline.engine import Workflow

from synthseg_bids.bids.image_record import ImageRecord, Status
from synthseg_bids.bids.save import output_files
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
    images: Sequence[ImageRecord],
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
    build: Callable[..., Workflow] = init_synthseg_wf,
    **options: Any,
) -> None:
    """Segment some images, or sessions.

    Parameters
    ----------
    images : sequence of ImageRecord
    ledger : Ledger
        Records what becomes of them.
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
    build : callable
        Builds the workflow.
    **options
        For `build`.
    """
    configure_nipype(base_dir, log_dir, stop_on_first_crash)
    workflow = build(images, out_dir, resources=resources, crash_dir=log_dir, name=name, **options)
    workflow.base_dir = str(base_dir)
    for image in images:
        subject = f'sub-{image.participant}'.replace('+', 'plus')
        drop_damaged(base_dir / name / subject / image.name)
    if graph:
        _draw(workflow, log_dir)
    run_workflow(
        workflow,
        log_dir,
        resources,
        plugin,
        {'status_callback': ledger.on_status, 'on_crash': ledger.on_crash},
        monitor,
    )


def run_workflow(
    workflow: Workflow,
    log_dir: Path,
    resources: Resources,
    plugin: tuple[str, dict[str, Any]],
    callbacks: Mapping[str, Callable[..., None]],
    monitor: bool = False,
) -> None:
    """Run a workflow with one of our plugins.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
    log_dir, resources, plugin, monitor
        See :func:`execute`.
    callbacks : mapping of str to callable
        ``status_callback`` and ``on_crash`` of the plugin.
    """
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
            **callbacks,
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


def configure_nipype(base_dir: Path, log_dir: Path, stop_on_first_crash: bool) -> None:
    """Set the folders and options of Nipype; see :func:`execute`."""
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
    """Records what becomes of each image while nodes end.

    Parameters
    ----------
    images : sequence of ImageRecord
        Those to segment; their status, reason, crash file and provenance are set.
    what : str
        What they are, for messages.
    """

    def __init__(self, images: Sequence[ImageRecord], what: str = 'image') -> None:
        self.images = list(images)
        self.what = what
        self._by_name = {image.name: image for image in images}
        self._killed: set[str] = set()
        self._running: set[str] = set()
        #: Line of progress, drawn while this context is open.
        self.progress = Progress(len(self.images), what)

    def on_status(self, node: Any, status: str) -> None:
        """Record that a node started or ended; called by Nipype."""
        image = self._image_of(node.fullname)
        if status == 'start' and node.name == 'segment':
            self._running.add(image.name)
            self._show()
            logger.info('%s: started', image.relative)
        if status == 'killed':
            self._killed.add(image.name)
            logger.warning('%s: %s; again, with no other beside it', image.path, _KILLED)
        if status == 'end':
            note_results(Path(node.output_dir()))
        if status != 'end' or node.name != 'save':
            return
        outputs = node.result.outputs
        notes = [f'{_KILLED}; done when tried again'] if image.name in self._killed else []
        notes += outputs.notes or []
        image.provenance = outputs.provenance
        self._settle(image, 'done', '; '.join(notes))
        count, left = self.progress.n_ended, self.progress.time_left()
        logger.info(
            '%s: done (%d of %d %ss)%s', image.relative, count, len(self.images), self.what, left
        )
        for note in outputs.notes or []:
            logger.warning('%s: %s', image.relative, note)

    def on_crash(self, crash: Crash) -> None:
        """Record that a node failed; called by the plugin."""
        image = self._image_of(crash.node)
        # The output dataset is the folder above logs/<run>.
        parts = Path(crash.crash_file).parts
        crash_file = '/'.join(parts[parts.index('logs', -4) :]) if parts else ''
        source = f'{image.path}: '
        reason = crash.reason.removeprefix(source)
        if not image.path.exists():
            # Nipype's message would be about an undefined input.
            reason = 'No such file any more; put it back, then run the same command again'
        self._settle(image, 'failed', reason, crash_file)
        logger.error('%s%s', source, reason)

    def abandon(self, images: Sequence[ImageRecord], error: Exception) -> None:
        """Record images as failed whose whole workflow has failed."""
        left = self._pending(images)
        reason = f'not finished: {describe(error)}'
        for image in left:
            self._settle(image, 'failed', reason)
        logger.error('%d %ss %s', len(left), self.what, reason)
        logger.debug('workflow', exc_info=error)

    def close(self, out_dir: Path, **outputs: Any) -> None:
        """Check that all outputs exist, and record images that were not reached.

        Parameters
        ----------
        out_dir : Path
            Root of the output dataset.
        **outputs
            See :meth:`~synthseg_bids.bids.image_record.ImageRecord.kinds`.
        """
        never = self._pending(self.images)
        for image in never:
            image.settle('failed', 'not run: stopped before its turn came, or before its end')
        for image in self.images:
            if image.status != 'done':
                continue
            # Not if no reference could be used, as the notes explain.
            kinds = [kind for kind in image.kinds(**outputs) if kind != 'dice']
            missing = [f for f in output_files(image.stem, kinds) if not (out_dir / f).exists()]
            if missing:
                image.settle('failed', f'missing: {", ".join(missing)}')
                logger.error('%s: %s', image.path, image.reason)
        if never:
            logger.error('%d images were not reached', len(never))

    def _settle(
        self, image: ImageRecord, status: Status, reason: str, crash_file: str = ''
    ) -> None:
        image.settle(status, reason, crash_file)
        self._running.discard(image.name)
        self._show()

    def _show(self) -> None:
        counts = Counter(image.status for image in self.images)
        n_ended, n_failed = len(self.images) - counts['pending'], counts['failed']
        note = f'{n_ended - n_failed} done, {len(self._running)} running, {n_failed} failed'
        self.progress.show(n_ended, note)

    @staticmethod
    def _pending(images: Sequence[ImageRecord]) -> list[ImageRecord]:
        return [image for image in images if image.status == 'pending']

    def _image_of(self, node: str) -> ImageRecord:
        return next(self._by_name[part] for part in node.split('.') if part in self._by_name)
