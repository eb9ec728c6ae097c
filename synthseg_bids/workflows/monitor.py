"""Run the workflow of a dataset and account for every image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nipype import config as nipype_config

from synthseg_bids.bids.plan import ImageTask
from synthseg_bids.bids.save import output_files
from synthseg_bids.bids.status import Outcome

from .base import init_synthseg_wf
from .plugin import Crash, IsolatedMultiProcPlugin
from .resources import Resources, available_memory_gb

logger = logging.getLogger(__name__)


def execute(
    ledger: Ledger,
    out_dir: Path,
    *,
    base_dir: Path,
    name: str,
    log_dir: Path,
    resources: Resources,
    stop_on_first_crash: bool = False,
    **options: Any,
) -> None:
    """Segment images in parallel worker processes.

    Parameters
    ----------
    ledger : Ledger
        Holds the tasks and gathers what becomes of them.
    out_dir : Path
        Root of the output dataset.
    base_dir : Path
        Working directory.
    name : str
        Of the workflow, and of its folder in the working directory.
    log_dir : Path
        Where workers log and crash files go.
    resources : Resources
    stop_on_first_crash : bool
        Start nothing more once an image has failed.
    **options
        For :func:`init_synthseg_wf`.
    """
    _configure_nipype(base_dir, log_dir, stop_on_first_crash)
    workflow = init_synthseg_wf(
        ledger.tasks, out_dir, resources=resources, crash_dir=log_dir, name=name, **options
    )  # fmt: skip
    workflow.base_dir = str(base_dir)
    plugin = IsolatedMultiProcPlugin(
        plugin_args={
            'n_procs': resources.scheduler_procs,
            'n_gpu_procs': resources.n_gpu_procs,
            'memory_gb': available_memory_gb(),
            'raise_insufficient': False,
            'mp_context': 'forkserver',
            'status_callback': ledger.on_status,
            'on_crash': ledger.on_crash,
            'log_file': str(log_dir / 'synthseg-bids.log'),
        }
    )
    try:
        workflow.run(plugin=plugin)
    except RuntimeError as error:
        # Once more what was reported for each node; anything else is our own fault.
        if not plugin.crashes:
            raise
        logger.debug('%s', error)


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
    """What became of each image, gathered while nodes end.

    Parameters
    ----------
    tasks : sequence of ImageTask
    """

    def __init__(self, tasks: Sequence[ImageTask]) -> None:
        self.tasks = tasks
        self._by_name = {task.name: task for task in tasks}
        self._outcomes: dict[str, Outcome] = {}

    def on_status(self, node: Any, status: str) -> None:
        """Note that a node started or ended; called by Nipype."""
        task = self._task_of(node.fullname)
        if status == 'start' and node.name == 'segment':
            logger.info('%s: started', task.image.relative)
        if status != 'end' or node.name != 'save':
            return
        outputs = node.result.outputs
        outcome = Outcome(
            task.image.relative,
            'done',
            reason='; '.join(outputs.notes or []),
            seconds=outputs.provenance['Seconds'],
            device=outputs.provenance['Device'],
        )
        self._outcomes[task.name] = outcome
        logger.info(
            '%s: done (%d of %d images)',
            outcome.relative, len(self._outcomes), len(self.tasks),
        )  # fmt: skip
        for note in outputs.notes or []:
            logger.warning('%s: %s', outcome.relative, note)

    def on_crash(self, crash: Crash) -> None:
        """Note that a node failed; called by the plugin."""
        task = self._task_of(crash.node)
        # The output dataset is the folder above logs/<run>.
        path = Path(crash.crash_file)
        crash_file = '/'.join(path.parts[path.parts.index('logs', -4) :])
        self._outcomes[task.name] = Outcome(
            task.image.relative, 'failed', crash.reason, crash_file
        )
        source = str(task.image.path)
        said = crash.reason if source in crash.reason else f'{source}: {crash.reason}'
        logger.error('%s', said)

    def close(self, out_dir: Path, posteriors: bool) -> list[Outcome]:
        """Check that what should be there is, and account for images never reached.

        Parameters
        ----------
        out_dir : Path
            Root of the output dataset.
        posteriors : bool
            Whether posterior maps should be there.

        Returns
        -------
        list of Outcome
            One per task.
        """
        for task in self.tasks:
            outcome = self._outcomes.get(task.name)
            if outcome is None:
                reason = 'not run: stopped before its turn came, or before its end'
                self._outcomes[task.name] = Outcome(task.image.relative, 'failed', reason)
                logger.error('%s: %s', task.image.path, reason)
            elif outcome.status == 'done':
                # Whether references could be used, the notes say.
                kinds = [kind for kind in task.kinds(posteriors) if kind != 'dice']
                missing = [f for f in output_files(task.stem, kinds) if not (out_dir / f).exists()]
                if missing:
                    outcome.status, outcome.reason = 'failed', f'missing: {", ".join(missing)}'
                    logger.error('%s: %s', task.image.path, outcome.reason)
        return [self._outcomes[task.name] for task in self.tasks]

    def _task_of(self, node: str) -> ImageTask:
        return next(self._by_name[part] for part in node.split('.') if part in self._by_name)
