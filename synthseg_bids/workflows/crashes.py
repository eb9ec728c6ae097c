"""Report failed nodes immediately, each in one line."""

from __future__ import annotations

import ast
import logging
import re
from dataclasses import dataclass
from typing import Any

from synthseg_bids.errors import UsageError, explain

logger = logging.getLogger(__name__)

WORKER_KILLED = 'its worker process was killed twice (out of memory, or by a signal)'

JOB_LOST = 'its batch job ended without a result (killed, or out of memory or time)'
#: Identifies Nipype's traceback of such a job.
JOB_LOST_SIGN = 'but results file does not exist'

_ERROR = re.compile(r'^[\w.]+(Error|Exception|Interrupt|Exit): ')
_SYSTEM_ERROR = re.compile(
    r"""^\w+Error: \[Errno (?P<number>\d+)\] [^:]+(: (?P<path>(['"]).*\4))?$"""
)
_OUR_ERRORS = re.compile(r'^(synthseg_bids\.[\w.]+|WorkerKilled|JobLost)Error: ')


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
    """Mixin for a Nipype plugin that reports every node that fails.

    The additional argument ``on_crash`` is called with every :class:`Crash`; all are in
    ``crashes``.
    """

    plugin_args: dict[str, Any]

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)  # type: ignore[call-arg]
        self.crashes: list[Crash] = []

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        result = result or {'result': None, 'traceback': []}
        # A string if a batch job ended without a result; Nipype expects lines.
        traceback = ''.join(result['traceback'])
        lines = traceback.splitlines(keepends=True)
        try:
            crash_file = super()._report_crash(  # type: ignore[misc]
                node, result={**result, 'traceback': lines}
            )
        except OSError as error:  # a full disk, probably what the crash is about as well
            logger.warning('no crash file of %s (%s)', node.fullname, error.strerror)
            crash_file = ''
        crash = Crash(node.fullname, find_reason(traceback, _folder(node)), crash_file)
        self.crashes.append(crash)
        if on_crash := self.plugin_args.get('on_crash'):
            on_crash(crash)
        return crash_file


def _folder(node: Any) -> str | None:
    """Return the directory of a node, if it has one already."""
    return str(node.output_dir()) if getattr(node, 'base_dir', None) else None


def find_reason(traceback: str, folder: str | None = None) -> str:
    r"""Find the line of a traceback with the reason of the failure.

    Parameters
    ----------
    traceback : str
    folder : str, optional
        Path for the message if a system error has none.

    Examples
    --------
    >>> find_reason('Traceback:\n\tsynthseg_bids.volume_io.InputImageError: a.nii: truncated\n')
    'a.nii: truncated'
    """
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    if not lines:
        return 'unknown error'
    if JOB_LOST_SIGN in traceback:
        return JOB_LOST
    # Nipype's messages have several lines, and errors before a node runs end with one about its
    # result file.
    errors = [line for line in lines if _ERROR.match(line) and not line.endswith('.pklz')]
    last = errors[-1] if errors else lines[-1]
    if system := _SYSTEM_ERROR.match(last):
        path = ast.literal_eval(system['path']) if system['path'] else folder
        return explain(int(system['number']), path)
    return _OUR_ERRORS.sub('', last)
