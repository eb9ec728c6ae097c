"""Write the pages of this folder that tell what the code knows.

Usage: python docs/build.py [PAGE ...]

The text is in ``templates``. All pages but ``errors`` are written by default: that one takes
minutes, since its lines are what the app really prints about the bad inputs of the tests. Of
``speed`` only the section about GPUs is written; the rest is that of benchmarks/inference.py.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent / 'benchmarks'), str(FOLDER.parent / 'tests' / 'helpers')]

from expected_dice_fit import below, calibration  # noqa: E402
from gpu.page import with_gpu_section  # noqa: E402
from page import render  # noqa: E402

from synthseg_bids.app.method import OF_OURS  # noqa: E402
from synthseg_bids.bids.group_stats import MAX_Z  # noqa: E402
from synthseg_bids.bids.references import NATIVE_SPACES  # noqa: E402
from synthseg_bids.external.methods import METHODS, T2_WEIGHTED  # noqa: E402
from synthseg_bids.files import read_table  # noqa: E402
from synthseg_bids.labels import segmentation_labels  # noqa: E402
from synthseg_bids.measure.expected_dice import FITTED  # noqa: E402
from synthseg_bids.measure.qc_limits import (  # noqa: E402
    MIN_EXPECTED_DICE,
    MODEL_LIMITS,
    QC_GROUPS,
    VOLUME_RANGES_ML,
)
from synthseg_bids.measure.qc_measures import SECTIONS  # noqa: E402
from synthseg_bids.measure.stats import MIN_VALUES  # noqa: E402

Content = dict[str, Any]


def page(name: str, content: Content | None = None) -> str:
    """Return the text of a page, by default with what :data:`PAGES` has for it."""
    if name == 'speed':
        return with_gpu_section((FOLDER / 'speed.rst').read_text(encoding='utf-8'))
    return render(name, **(PAGES[name]() if content is None else content))


def options() -> Content:
    """List the spaces in which references are found; the options are the parser's."""
    return {'native_spaces': NATIVE_SPACES}


def methods() -> Content:
    """List the methods, and what ours alone can do."""
    refused = [option.split()[0] for option, _ in OF_OURS.values()]
    return {'methods': METHODS, 'refused': refused, 't2_weighted': T2_WEIGHTED}


def qc() -> Content:
    """List measures, limits, plausible volumes and groups of structures."""
    names = {label.index: label.name.removeprefix('Left-') for label in segmentation_labels()}
    groups = [
        (f'``{group}``', ', '.join(dict.fromkeys(names[i].removeprefix('Right-') for i in labels)))
        for group, labels in QC_GROUPS.items()
    ]
    return {
        'sections': {
            title: [(f'``{m.name}``', m.units, m.description, m.limits) for m in measures]
            for title, measures in SECTIONS.items()
        },
        'origin': MODEL_LIMITS['origin'],
        'fitted': FITTED['origin'],
        'min_dice': MIN_EXPECTED_DICE,
        **_calibration(),
        'ranges': [(names[i], f'{a:g}', f'{b:g}') for i, (a, b) in VOLUME_RANGES_ML.items()],
        'groups': groups,
        'max_z': MAX_Z,
        'min_values': MIN_VALUES,
    }


def _calibration() -> Content:
    """Say how well the fit of expected Dice predicts."""
    rows = read_table(FOLDER / 'qc' / 'expected_dice.tsv')
    columns = [f'{kind}{name}' for kind in ('generated_', '')
               for name in ('dice', 'bias', 'error', 'correlation')]  # fmt: skip
    found = calibration(rows, FITTED['groups'])
    return {
        'real': max(one['scans'] for one in found),
        'low': below(rows, FITTED['groups'], MIN_EXPECTED_DICE),
        'calibration': [
            (
                f'``{group}``',
                *(f'{round(one[name], 2) + 0:.2f}'.replace('nan', 'n/a') for name in columns),
            )
            for group, one in zip(FITTED['groups'], found, strict=True)
        ],
    }


def faults() -> Content:
    """List what the tests of faults check."""
    from faults import FAULTS
    from other_faults import ELSEWHERE

    return {
        'runs': [_fault(fault) for fault in FAULTS],
        'others': [(*_fault(other), _literal(other.test)) for other in ELSEWHERE],
    }


def _fault(fault: Any) -> tuple[str, ...]:
    code = str(fault.code)
    if isinstance(fault.code, int) and fault.code < 0:
        code = f'none ({signal.Signals(-fault.code).name})'
    return fault.what, fault.how, code, *map(_literal, (fault.last, fault.says, fault.again))


def _literal(text: str) -> str:
    return f'``{text}``' if text else 'none'


def errors() -> Content:
    """Run the app on all bad inputs; list what it prints."""
    from app import save_tiny_model
    from bad_runs import run_all

    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_model(Path(folder) / 'tiny.safetensors')
        return printed(*run_all(Path(folder), model), Path(folder))


def printed(images: Any, runs: Mapping[str, Any], folder: Path) -> Content:
    """List what is printed about bad inputs.

    Parameters
    ----------
    images : Run
        What the run over all bad images printed.
    runs : mapping of str to Run
        What the other runs printed, by what is wrong with them.
    folder : Path
        Where everything lies.
    """
    from bad_inputs import IMAGES, REFERENCES
    from bad_runs import RUNS

    def line(run: Any, says: str, name: str = '') -> str:
        return f'``{find_line(run.stderr, says, name, folder)}``'

    return {
        'images': [(i.what, i.status, line(images, i.says, i.shown)) for i in IMAGES],
        'references': [
            (r.what, line(images, r.says, f'/{r.dataset}/') if r.says
             else '``(none: it is resampled)``')
            for r in REFERENCES
        ],
        'runs': [(run.what, str(run.code), line(runs[run.what], run.says)) for run in RUNS],
    }  # fmt: skip


def find_line(stderr: str, says: str, name: str, folder: Path) -> str:
    """Return the line that says what is wrong, without what differs from run to run."""
    from bad_inputs import AWKWARD

    found = next(text for text in stderr.splitlines() if says in text and name in text)
    level, file, what = found.split(': ', 2)
    if level == 'WARNING' and what.count('; ') > 2:
        # Images of noise, segmented by a network that was never trained, have many faults.
        what = f'... {next(part for part in what.split("; ") if says in part)} ...'
    text = ': '.join([level, file, what]).replace(f'{folder}/images/{AWKWARD}', '/data/raw')
    text = re.sub(re.escape(str(folder)) + r'/(\d+|images)', '/data', text)
    text = re.sub(r'/data/\w+/synthseg_\w+_wf', 'WORK_DIR', text)
    return re.sub(r'file of \d+ bytes', 'file of N bytes', text)


PAGES: dict[str, Callable[[], Content]] = {
    'options': options,
    'methods': methods,
    'qc': qc,
    'faults': faults,
    'errors': errors,
}

if __name__ == '__main__':
    for name in sys.argv[1:] or ['speed', *(name for name in PAGES if name != 'errors')]:
        (FOLDER / f'{name}.rst').write_text(page(name), encoding='utf-8')
