"""Base class for external command-line tools; the child is killed with its worker."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import CommandLineInputSpec, File, TraitedSpec, traits

from synthseg_bids.errors import UsageError
from synthseg_bids.external import kill_with_parent

if TYPE_CHECKING:
    from nipype.interfaces.base import CommandLine as _Command
else:
    # Only a mixin: a subclass of CommandLine would have to name a program.
    _Command = object

#: Output of a program, in the folder of its node.
LOG = 'output.log'
_MAX_REASON = 300


class ProgramError(UsageError):
    """A program failed; the message is one line."""


class ProgramInputSpec(CommandLineInputSpec):
    """Common inputs of all programs."""

    program_version = traits.Str(
        '', usedefault=True, desc='version of the program; part of the cache key'
    )
    num_threads = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, argstr='--threads %d', desc='CPU threads'
    )


class ProgramOutputSpec(TraitedSpec):
    """Common outputs of all programs."""

    out_labels = File(exists=True, desc='segmentation, in FreeSurfer labels')
    seconds = traits.Float(desc='run time')


class ExternalCommand(_Command):
    """Mixin for a CommandLine whose program is killed when its worker is stopped or killed.

    Nipype would leave the program running, and running the workflow again would start a second
    one in the same folder.
    """

    _seconds = 0.0

    def _run_interface(self, runtime: Any, correct_return_codes: Any = (0,)) -> Any:
        runtime.cmdline = self.cmdline
        runtime.success_codes = correct_return_codes
        runtime.stdout = runtime.stderr = runtime.merged = ''
        environment = {
            # Paths of our Python break programs that bring their own.
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
            # communicate() would close its standard input, by which it knows that we live.
            runtime.returncode = process.wait()
        self._seconds = time.monotonic() - started
        name = Path(shlex.split(self.cmd)[0]).name
        if runtime.returncode not in correct_return_codes:
            raise ProgramError(f'{name} failed: {_why(runtime.returncode, log)}')
        if not self._labels().is_file():
            raise ProgramError(f'{name} wrote no {self._labels().name}: {_why(0, log)}')
        return runtime

    def _labels(self) -> Path:
        """Return the path of the program's label map."""
        raise NotImplementedError

    def _list_outputs(self) -> dict[str, Any]:
        outputs: dict[str, Any] = self.output_spec().get()
        outputs |= {'out_labels': str(self._labels()), 'seconds': self._seconds}
        return outputs


def _why(code: int, log: Path) -> str:
    """Explain in one line why a program failed, and where its output is."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    reason = next((line.strip() for line in reversed(lines) if line.strip()), 'no output')
    if code > 128:
        reason = f'killed by {_signal(code - 128)}, out of memory perhaps'
    return f'{reason[:_MAX_REASON]}; see {log}'


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'
