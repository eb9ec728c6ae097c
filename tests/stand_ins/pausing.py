"""Run the app; stop it, its workers and who has started it once it says certain words."""

from __future__ import annotations

import logging
import os
import signal
import sys

from synthseg_bids.cli.run import main

logger = logging.getLogger('synthseg_bids')


class Pause(logging.Handler):
    """Stops the process group when the words are about to be written for the first time."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            logger.removeHandler(self)
            os.killpg(0, signal.SIGSTOP)


if __name__ == '__main__':
    logger.addHandler(Pause(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
