"""Write errors.rst, what the user sees of every bad input: python docs/write_errors.py.

The inputs are those of the tests, and the lines are what the app really prints about them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent / 'tests' / 'helpers'), str(FOLDER)]

from app import Run, save_tiny_model  # noqa: E402
from bad_inputs import AWKWARD, IMAGES, REFERENCES  # noqa: E402
from bad_runs import RUNS, run_all  # noqa: E402
from tables import list_table  # noqa: E402

INTRODUCTION = """Bad inputs
==========

.. Written by docs/write_errors.py from what the tests make and the app prints; do not edit.

Whatever is wrong is said in one line on the terminal, which names the file and what to do. An
image that cannot be segmented does not stop the others: their outputs are complete, the table
``group_status.tsv`` names all images with the reason, and the exit code is 1. Nothing is written
for an image that failed.
"""

IMAGES_TEXT = """Images
------

All of these images were in one data set, with good ones among them, whose folder had quotes,
angle brackets and letters of other alphabets in its name, with the outputs in its ``derivatives``
and the working directory on another file system. *Status* is that in ``group_status.tsv``; of
images that were segmented, the part of the line is shown that tells of the fault.
"""

REFERENCES_TEXT = """Reference segmentations
-----------------------

A reference that cannot be used costs an image its comparison, nothing else.
"""

RUNS_TEXT = """Folders, disks and runs
-----------------------

A run that ends with exit code 2 or 3 has written nothing. On a full disk, images that were done
before stay done, and no half-written file is left; the same command goes on from there. A second
run on the same participants waits for the first, and then has nothing to do; runs on different
participants (as in an array of batch jobs) do not wait for each other.
"""


def page(images: Run, runs: Mapping[str, Run], folder: Path) -> str:
    """Return the text of the page.

    Parameters
    ----------
    images : Run
        Of the run over all bad images.
    runs : mapping of str to Run
        Of the others, by what is wrong with them.
    folder : Path
        Where everything lies.
    """

    def line(run: Run, says: str, name: str = '') -> str:
        return find_line(run.stderr, says, name, folder)

    bad = [(i.what, i.status, line(images, i.says, i.shown)) for i in IMAGES]
    references = [
        (r.what, line(images, r.says, f'/{r.dataset}/') if r.says else '(none: it is resampled)')
        for r in REFERENCES
    ]
    others = [(run.what, str(run.code), line(runs[run.what], run.says)) for run in RUNS]
    return '\n'.join(
        [
            INTRODUCTION,
            IMAGES_TEXT,
            table(('Image', 'Status', 'Line'), bad),
            REFERENCES_TEXT,
            table(('Reference', 'Line'), references),
            RUNS_TEXT,
            table(('What', 'Exit code', 'Line'), others),
        ]
    )


def find_line(stderr: str, says: str, name: str, folder: Path) -> str:
    """Return the line that says what is wrong, without what differs from run to run."""
    found = next(text for text in stderr.splitlines() if says in text and name in text)
    level, file, what = found.split(': ', 2)
    if level == 'WARNING' and what.count('; ') > 2:
        # Images of noise, segmented by a network that was never trained, have many faults.
        what = f'... {next(part for part in what.split("; ") if says in part)} ...'
    text = ': '.join([level, file, what]).replace(f'{folder}/images/{AWKWARD}', '/data/raw')
    text = re.sub(re.escape(str(folder)) + r'/(\d+|images)', '/data', text)
    text = re.sub(r'/data/\w+/synthseg_\w+_wf', 'WORK_DIR', text)
    return re.sub(r'file of \d+ bytes', 'file of N bytes', text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose last column is as on the terminal."""
    return list_table(head, ((*row[:-1], f'``{row[-1]}``') for row in rows))


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_model(Path(folder) / 'tiny.safetensors')
        text = page(*run_all(Path(folder), model), Path(folder))
    (FOLDER / 'errors.rst').write_text(text, encoding='utf-8')
