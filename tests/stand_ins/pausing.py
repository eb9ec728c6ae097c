"""Run the app; stop it, its workers and who has started it when it is about to say some words."""

from __future__ import annotations

import logging
import os
import signal
import sys

from synthseg_bids.app.main import main

# Workers read this module under another name; in them, nodes say what they begin.
logger = logging.getLogger('synthseg_bids' if __name__ == '__main__' else 'nipype.workflow')


class Pause(logging.Handler):
    """Stops the process group, the first time that this process says the words."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.argv[1] in record.getMessage():
            logger.removeHandler(self)
            os.killpg(0, signal.SIGSTOP)


logger.addHandler(Pause())
if __name__ == '__main__':
    sys.exit(main([*sys.argv[2:]]))
