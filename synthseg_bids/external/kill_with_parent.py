"""Run a program that ends when whoever started it does, however that comes about.

``python kill_with_parent.py PROGRAM [ARGUMENT ...]`` with a pipe for its standard input: once the
other end is closed, which the kernel does for a process that was killed, the program is killed,
too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress


def main(argv: Sequence[str]) -> int:
    """Run the program; return its exit code, 128 and the number of the signal that killed it."""
    # A session of its own, so that its own children can be killed with it.
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)

    def watch() -> None:
        os.read(0, 1)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
