"""Programs of others: run to their end, or to ours."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import (
    CommandLineInputSpec,
    File,
    TraitedSpec,
    traits,
)

from synthseg_bids.errors import UsageError
from synthseg_bids.external import kill_with_parent

if TYPE_CHECKING:
    from nipype.interfaces.base import CommandLine as _Command
else:
    # A command of its own would have to name a program.
    _Command = object

#: What programs say goes here, in the folder of their node.
LOG = 'output.log'
_MOST_WORDS = 300


class ProgramError(UsageError):
    """A program failed; the message is one line."""


class ProgramInputSpec(CommandLineInputSpec):
    """What the programs of all methods take."""

    program_version = traits.Str(
        '', usedefault=True, desc='so that cached results of another version are not used'
    )
    num_threads = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, argstr='--threads %d', desc='CPU threads'
    )


class ProgramOutputSpec(TraitedSpec):
    """What the programs of all methods give."""

    out_labels = File(exists=True, desc='segmentation, in FreeSurfer labels')
    seconds = traits.Float(desc='time that it took')


class ExternalCommand(_Command):
    """To be mixed into a CommandLine that takes minutes: it ends when its worker does.

    Nipype would leave the program running where a worker is stopped or killed; the same command
    again would then start another one beside it, in the same folder.
    """

    _seconds = 0.0

    def _run_interface(self, runtime: Any, correct_return_codes: Any = (0,)) -> Any:
        runtime.cmdline = self.cmdline
        runtime.success_codes = correct_return_codes
        runtime.stdout = runtime.stderr = runtime.merged = ''
        environment = {
            # What our Python is told is not for another one.
            **{k: v for k, v in runtime.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')},
            'OMP_NUM_THREADS': str(self.inputs.num_threads),
            **self.inputs.environ,
        }
        log = Path(runtime.cwd) / LOG
        started = time.monotonic()
        with (
            log.open('wb') as stream,
            subprocess.Popen(
                [sys.executable, kill_with_parent.__file__, *shlex.split(self.cmdline)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=runtime.cwd,
                env=environment,
                start_new_session=True,
            ) as process,
        ):
            # Not communicate(), which closes its standard input at once.
            runtime.returncode = process.wait()
        self._seconds = time.monotonic() - started
        name = Path(shlex.split(self.cmd)[0]).name
        if runtime.returncode not in correct_return_codes:
            raise ProgramError(f'{name} failed: {_why(runtime.returncode, log)}')
        if not self._labels().is_file():
            raise ProgramError(f'{name} wrote no {self._labels().name}: {_why(0, log)}')
        return runtime

    def _labels(self) -> Path:
        """Return the path of the label map that it must write."""
        raise NotImplementedError

    def _list_outputs(self) -> dict[str, Any]:
        outputs: dict[str, Any] = self.output_spec().get()
        outputs |= {'out_labels': str(self._labels()), 'seconds': self._seconds}
        return outputs


def _why(code: int, log: Path) -> str:
    """Say in one line why a program failed, and where to read on."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), 'it said nothing')
    if code > 128:
        said = f'killed by {_signal(code - 128)}, out of memory perhaps'
    return f'{said[:_MOST_WORDS]}; see {log}'


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'
