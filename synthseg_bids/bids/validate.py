"""Ask the BIDS validator, where it is installed, about the images to be segmented."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

logger = logging.getLogger(__name__)

_VALIDATOR = 'bids-validator-deno'


def find_validator() -> str | None:
    """Return the path of the BIDS validator; None if it is not installed.

    It is looked for beside this Python, too: an environment need not be activated to be used.
    """
    beside = Path(sys.executable).parent
    return shutil.which(_VALIDATOR, path=str(beside)) or shutil.which(_VALIDATOR)


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
    executable = find_validator()
    if executable is None:
        logger.info('%s is not installed; the dataset is not validated', _VALIDATOR)
        return []
    command = [executable, '--json', '--ignoreWarnings', str(bids_dir)]
    environment = {**os.environ, 'DENO_DIR': str(cache_dir / 'deno'), 'NO_COLOR': '1'}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment
        )
        issues = json.loads(answer.stdout)['issues']['issues']
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as error:
        logger.info('%s gave no answer (%s)', _VALIDATOR, type(error).__name__)
        return []
    return [
        f'{issue["location"]}: {issue.get("code", "")} {issue.get("subCode", "")}'.rstrip()
        for issue in issues
        if issue.get('severity') == 'error' and _concerns(issue.get('location', ''), participants)
    ]


def _concerns(location: str, participants: Collection[str]) -> bool:
    subject, *folders = location.strip('/').split('/')
    return subject.removeprefix('sub-') in participants and 'anat' in folders[:-1]
