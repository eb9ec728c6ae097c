"""Steps that run once: each has a folder with a record of how it was made."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from synthseg_bids import __version__
from synthseg_bids.files import write_json
from synthseg_bids.models.card import sha256

logger = logging.getLogger(__name__)

RECORD = 'step.json'
MODULES = {'synthseg-bids': 'synthseg_bids.app.main', 'synthseg': 'synthseg_bids.cli.main'}


class StepError(Exception):
    """A step failed; the message is one line."""


@dataclass(frozen=True)
class Step:
    """One or more commands that fill a folder.

    Attributes
    ----------
    folder : Path
        Is removed first if it was filled with other settings.
    commands : tuple of tuple of str
        Programs of ours with their arguments.
    outputs : tuple of str
        Files that must exist afterwards, relative to the folder.
    after : tuple of Step
        Steps whose results this one starts from: it is repeated when they are.
    partial : bool
        Whether exit code 1, something failed, is good enough.
    inputs : tuple of Path
        Folders and files that the commands read: the step is repeated when their contents change,
        or the version of our programs.
    origin : str
        What else decides the result: the step is repeated when it changes.
    prepare : callable, optional
        Is given the folder before the commands are run.
    """

    folder: Path
    commands: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...]
    after: tuple[Step, ...] = ()
    partial: bool = False
    inputs: tuple[Path, ...] = ()
    origin: str = ''
    prepare: Callable[[Path], None] | None = None

    def settings(self) -> dict[str, object]:
        """Return the settings that decide the result, and checksums of earlier steps."""
        content = json.dumps([step.settings() for step in self.after])
        return {
            'commands': [list(command) for command in self.commands],
            'version': __version__,
            'inputs': [contents_sha256(path) for path in self.inputs],
            'origin': self.origin,
            'after': hashlib.sha256(content.encode()).hexdigest(),
        }

    def run(self) -> None:
        """Run the commands, unless this was done with the same settings.

        Raises
        ------
        StepError
            If a command fails or an output is missing.
        """
        record = self.folder / RECORD
        known = json.loads(record.read_text()) if record.exists() else {}
        same = known.get('settings') == self.settings()
        if same and known['done'] and not self._missing():
            logger.info('%s: done before', self.folder)
            return
        if record.exists() and not same:
            shutil.rmtree(self.folder)
        # Our programs resume after an interruption.
        write_json(record, {'settings': self.settings(), 'done': False})
        if self.prepare:
            self.prepare(self.folder)
        for command in self.commands:
            code = call(command)
            if code and not (code == 1 and self.partial):
                raise StepError(f'exit code {code} from: {shlex.join(command)}')
        missing = self._missing()
        if missing:
            raise StepError(f'{self.folder}: no {", ".join(missing)} after: {self.commands[-1]}')
        write_json(record, {'settings': self.settings(), 'done': True})

    def _missing(self) -> list[str]:
        return [name for name in self.outputs if not (self.folder / name).exists()]


@cache
def contents_sha256(path: Path) -> str:
    """Return a checksum of a file, or of all files of a folder and their names."""
    found = hashlib.sha256()
    for file in sorted(p for p in [path, *path.rglob('*')] if p.is_file()):
        found.update(f'{file.relative_to(path)}\0{sha256(file)}\0'.encode())
    return found.hexdigest()


def call(command: Sequence[str]) -> int:
    """Run one of our programs; return its exit code."""
    logger.info('%s', shlex.join(command))
    program = [sys.executable, '-m', MODULES[command[0]], *command[1:]]
    return subprocess.run(program, check=False).returncode
