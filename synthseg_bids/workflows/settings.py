"""Settings of all nodes of a workflow."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from nipype.pipeline.engine import Workflow


def apply_settings(workflow: Workflow, crash_dir: Path | None, overwrite: bool) -> None:
    """Give a workflow and its nodes a folder of crash files, and say whether results are reused.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
    crash_dir : Path or None
        Folder of its crash files; None for Nipype's own.
    overwrite : bool
        Do not use results in the working directory.
    """
    if crash_dir is not None:
        workflow.config['execution']['crashdump_dir'] = str(crash_dir)
    for node in workflow._get_all_nodes():
        node.config = deepcopy(workflow.config)
        node.overwrite = True if overwrite else None
