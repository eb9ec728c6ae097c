"""Write faults.rst, what becomes of a run when something goes wrong: python docs/write_faults.py.

The tests bring every fault about and compare what they see with what is written here.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent / 'tests' / 'helpers'), str(FOLDER)]

from faults import FAULTS, Observed  # noqa: E402
from other_faults import ELSEWHERE  # noqa: E402
from tables import list_table  # noqa: E402

INTRODUCTION = """Faults
======

.. Written by docs/write_faults.py from what the tests check; do not edit.

Whatever happens to a run: outputs that were complete stay, no file is half-written, the run ends,
and the same command goes on where it ended. Outputs of an image count only once the sidecar of its
label map is there, which is written last.

A worker that is killed, as the kernel does when memory runs out, costs nothing but time: its
image gets a second try, with nothing beside it and with the memory of idle workers freed. Killed
again, the image fails and the others go on.
"""

RUNS = """Runs of two images
------------------

Each of these is brought about by ``tests/app/test_faults.py::test_fault``, on two images that are
segmented one after the other. It then runs the same command again, which exits with 0 after the
line under *Next run* (skipped are images that were done before), and compares all files with those
of an undisturbed run: they are equal to the byte. *Last line* is that on stdout.
"""

OTHERS = """Other faults
------------

Brought about by the test in the last column, which compares what it sees with this table. All
processes killed three times while outputs are written, and too little space for the outputs of
one image, have tests as well: in ``tests/app/test_resume.py`` and ``tests/app/test_bad_input.py``.
"""

NOT_TESTED = """Not tested
----------

- Memory limits of Slurm: they need control groups, which the one-node Slurm of the tests does not
  have. There a job's address space is limited instead (``ulimit -v``), or its processes are
  killed. Where Slurm enforces memory, the state in the line would be ``OUT_OF_MEMORY``.
- A clock that jumps while a run is at work. Whether outputs are up to date depends on checksums;
  times of files only tell which checksums and reports to make anew.
- A GPU that really fails or is full: tests have none; they raise the errors of PyTorch.
- Nodes of a cluster that fail, and network file systems without locks: where a file system knows
  no locks, a warning says so, and two runs on the same participants do the same work twice.
"""


def page() -> str:
    """Return the text of the page."""
    runs = [_cells(fault) for fault in FAULTS]
    others = [(*_cells(other), _literal(other.test)) for other in ELSEWHERE]
    head = ('Fault', 'How', 'Exit code', 'Last line', 'Message has', 'Next run')
    return '\n'.join(
        [
            INTRODUCTION,
            RUNS,
            list_table(head, runs),
            OTHERS,
            list_table((*head, 'Test'), others),
            NOT_TESTED.rstrip('\n'),
            '',
        ]
    )


def tests() -> list[tuple[str, str]]:
    """List file and name of every test that the page refers to."""
    return [(file, name) for file, _, name in (other.test.partition('::') for other in ELSEWHERE)]


def _cells(fault: Observed) -> tuple[str, ...]:
    texts = map(_literal, (fault.last, fault.says, fault.again))
    return (fault.what, fault.how, _code(fault), *texts)


def _code(fault: Observed) -> str:
    if isinstance(fault.code, int) and fault.code < 0:
        return f'none ({signal.Signals(-fault.code).name})'
    return str(fault.code)


def _literal(text: str) -> str:
    return f'``{text}``' if text else 'none'


if __name__ == '__main__':
    (FOLDER / 'faults.rst').write_text(page(), encoding='utf-8')
