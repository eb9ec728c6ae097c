"""Write faults.rst, what becomes of a run when something goes wrong: python docs/write_faults.py.

The tests bring every fault about and compare what they see with what is written here.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent / 'tests'), str(FOLDER)]

from faults import FAULTS, Fault  # noqa: E402
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

Each of these is brought about by ``tests/test_faults.py::test_fault``, on two images that are
segmented one after the other. It then runs the same command again, which exits with 0 after the
line under *Next run* (skipped are images that were done before), and compares all files with those
of an undisturbed run: they are equal to the byte. *Last line* is that on stdout.
"""

OTHERS = """Other faults
------------

"""

NOT_TESTED = """Not tested
----------

- Memory limits of Slurm: they need control groups, which the one-node Slurm of the tests does not
  have. There a job's address space is limited instead (``ulimit -v``), or its processes are
  killed. Where Slurm enforces memory, the state in the line would be ``OUT_OF_MEMORY``.
- A clock that jumps while a run is at work. Whether outputs are up to date depends on checksums;
  times of files only tell which checksums and reports to make anew.
- A GPU that is lost: tests have none. Lack of its memory is simulated by the error that PyTorch
  raises.
- Nodes of a cluster that fail, and network file systems without locks: where a file system knows
  no locks, a warning says so, and two runs on the same participants do the same work twice.
"""


@dataclass(frozen=True)
class Elsewhere:
    """A fault that another test brings about.

    Attributes
    ----------
    what : str
    observed : str
    test : str
        File and name.
    """

    what: str
    observed: str
    test: str


_PLUGIN = 'tests/slurm/test_plugin.py::'
_ARRAY = 'tests/slurm/test_array.py::'
_RESUME = 'tests/test_cli_resume.py::'

ELSEWHERE = (
    Elsewhere(
        'jobs of the plugin SLURM cancelled (``scancel``), killed (``kill -9``), out of time (its '
        'end set to now), out of memory (``ulimit -v``)',
        'Exit code 1; each fails its own image, whose line names the state of the job and its '
        'log; the others are done, and the next run completes. What an earlier run of another '
        'model has left in the working directory is not taken for their result.',
        f'{_PLUGIN}test_killed_jobs_fail_alone',
    ),
    Elsewhere(
        'run with the plugin SLURM terminated (SIGTERM)',
        'Exit code 143; its jobs are cancelled.',
        f'{_PLUGIN}test_jobs_end_with_the_run',
    ),
    Elsewhere(
        'Slurm refuses a job (a partition that does not exist)',
        'Exit code 2; one line with what ``sbatch`` said.',
        f'{_PLUGIN}test_what_slurm_refuses_is_said_in_one_line',
    ),
    Elsewhere(
        'task of a job array cancelled',
        'The other tasks and the job of the group complete; the same command does the rest.',
        f'{_ARRAY}test_cancelled_task_leaves_the_others_and_is_done_next_time',
    ),
    Elsewhere(
        'all processes killed three times, while outputs are written too',
        'The next run leaves the same files as an undisturbed one.',
        f'{_RESUME}test_killed_at_any_moment_the_result_is_the_same',
    ),
    Elsewhere(
        'two runs of the same command at once',
        'Exit code 0 of both; every image is segmented once.',
        f'{_RESUME}test_two_runs_at_once',
    ),
    Elsewhere(
        'too little space for the outputs of one image',
        'Exit code 1; that image fails, is named and leaves no file; the others are done.',
        'tests/test_bad_input.py::test_full_disk_costs_no_other_image',
    ),
    Elsewhere(
        'GPU out of memory (simulated)',
        'Exit code 0; tried again in tiles, then on the CPU, unless ``--no-gpu-fallback``; the '
        'status table names the device.',
        'tests/test_inference.py::test_goes_on_when_memory_runs_out',
    ),
)


def page() -> str:
    """Return the text of the page."""
    runs = [
        (fault.what, fault.how, _code(fault), _literal(fault.last), _literal(fault.says),
         _literal(fault.again))
        for fault in FAULTS
    ]  # fmt: skip
    others = [(other.what, other.observed, _literal(other.test)) for other in ELSEWHERE]
    head = ('Fault', 'How', 'Exit code', 'Last line', 'Message has', 'Next run')
    return '\n'.join(
        [
            INTRODUCTION,
            RUNS,
            list_table(head, runs),
            OTHERS.rstrip('\n') + '\n',
            list_table(('Fault', 'What was observed', 'Test'), others),
            NOT_TESTED.rstrip('\n'),
            '',
        ]
    )


def tests() -> list[tuple[str, str]]:
    """List file and name of every test that the page refers to."""
    return [(file, name) for file, _, name in (other.test.partition('::') for other in ELSEWHERE)]


def _code(fault: Fault) -> str:
    if fault.code < 0:
        return f'none ({signal.Signals(-fault.code).name})'
    return str(fault.code)


def _literal(text: str) -> str:
    return f'``{text}``' if text else 'none'


if __name__ == '__main__':
    (FOLDER / 'faults.rst').write_text(page(), encoding='utf-8')
