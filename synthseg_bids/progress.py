"""Progress of many images: a line at the bottom of a terminal, or the time left for a log."""

from __future__ import annotations

import io
import logging
import shutil
import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Show how many images have ended; a context manager.

    Where standard error is a terminal, its last line shows a bar, and log lines are written
    above it. Elsewhere nothing is drawn.

    Parameters
    ----------
    total : int
    unit : str
        Name of one of them.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self.n_ended = 0
        self.at_terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._bar = tqdm(disable=True)
        self._handlers: list[logging.StreamHandler] = []

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if self.at_terminal:
            # On terminals that report a width of 0, tqdm would draw no bar.
            width = shutil.get_terminal_size().columns
            self._bar = tqdm(total=self.total, unit=self.unit, ncols=width)
            self._handlers = [
                handler
                for handler in logging.getLogger().handlers
                if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr
            ]
            for handler in self._handlers:
                handler.setStream(_AboveBar())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        for handler in self._handlers:
            handler.setStream(sys.stderr)

    def show(self, n_ended: int, note: str) -> None:
        """Draw the line again.

        Parameters
        ----------
        n_ended : int
            Images that have ended, failed ones included.
        note : str
            Shown at the end of the line.
        """
        self.n_ended = self._bar.n = n_ended
        self._bar.set_postfix_str(note)

    def time_left(self) -> str:
        """Return ``; 01:30 left`` for a log line, by the mean time so far; empty at the end."""
        if not 0 < self.n_ended < self.total:
            return ''
        seconds = (time.monotonic() - self._start) / self.n_ended * (self.total - self.n_ended)
        return f'; {tqdm.format_interval(seconds)} left'


class _AboveBar(io.TextIOBase):
    """Standard error above the line of progress."""

    def write(self, text: str) -> int:
        tqdm.write(text, file=sys.stderr, end='')
        return len(text)
