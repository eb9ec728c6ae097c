"""Ask the BIDS validator, where it is installed, about the images to be segmented."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

logger = logging.getLogger(__name__)


def report_bids_errors(
    bids_dir: Path, participants: Collection[str], cache_dir: Path, timeout_s: float = 60
) -> list[str]:
    """List what the validator calls errors in the ``anat`` folders of some participants.

    Parameters
    ----------
    bids_dir : Path
    participants : collection of str
        Labels without ``sub-``.
    cache_dir : Path
        Where the validator may keep files.
    timeout_s : float
        Give up after this many seconds.

    Returns
    -------
    list of str
        One line per error. They never stop a segmentation, most of them being about metadata
        that it does not need; empty also if the validator is missing or fails.
    """
    executable = shutil.which('bids-validator-deno')
    if executable is None:
        logger.info('bids-validator-deno is not installed; the dataset is not validated')
        return []
    command = [executable, '--json', '--ignoreWarnings', str(bids_dir)]
    environment = {**os.environ, 'DENO_DIR': str(cache_dir / 'deno'), 'NO_COLOR': '1'}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment
        )
        issues = json.loads(answer.stdout)['issues']['issues']
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as error:
        logger.info('bids-validator-deno gave no answer (%s)', type(error).__name__)
        return []
    return [
        f'{issue["location"]}: {issue.get("code", "")} {issue.get("subCode", "")}'.rstrip()
        for issue in issues
        if issue.get('severity') == 'error' and _concerns(issue.get('location', ''), participants)
    ]


def _concerns(location: str, participants: Collection[str]) -> bool:
    subject, *folders = location.strip('/').split('/')
    return subject.removeprefix('sub-') in participants and 'anat' in folders[:-1]
