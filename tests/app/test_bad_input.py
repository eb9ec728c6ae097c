"""Every row of ``bad_inputs``: one line that names the file, the exit code, what is written."""

from __future__ import annotations

import re
import runpy
import threading
from collections import Counter
from pathlib import Path

import pytest
from app import Run, run_here
from bad_inputs import GOOD, IMAGES, REFERENCES
from bad_runs import RUNS, possible, run_all, run_twice, unprivileged
from filelock import FileLock
from other_faults import TWO_RUNS

from synthseg_bids.app.group_outputs import write_tables
from synthseg_bids.bids.names import bids_uri
from synthseg_bids.files import read_table

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('bad')


@pytest.fixture(scope='module')
def results(folder, tiny_model):
    return run_all(folder, tiny_model)


@pytest.fixture(scope='module')
def images(results) -> Run:
    return results[0]


@pytest.fixture(scope='module')
def runs(results) -> dict[str, Run]:
    return results[1]


def lines(result: Run, name: str) -> list[str]:
    """Return what the terminal shows of a file, but for its progress."""
    return [
        line for line in result.stderr.splitlines()
        if name in line and line.startswith(('WARNING', 'ERROR'))
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('image', IMAGES, ids=lambda image: image.what)
def test_bad_image(images, image):
    if 'permission' in image.what and not possible(unprivileged()):
        pytest.skip('root may read everything, and setpriv is not there')
    row = images.status()[bids_uri('raw', image.name).removeprefix('bids:raw:')]
    assert row['status'] == image.status
    assert image.says in row['reason']
    said = lines(images, image.shown)
    # Of noise that was segmented there is more to say.
    assert len(said) == 1 or image.status == 'done'
    (line,) = [line for line in said if image.says in line]
    assert line.startswith('ERROR' if image.status == 'failed' else 'WARNING')
    label = re.search('acq-[a-zA-Z0-9]+', image.name)
    outputs = {p.name for p in images.out.glob(f'sub-*/**/*{label[0]}_*')} if label else set()
    kinds = {name.split('_')[-1] for name in outputs if name.endswith(('.tsv', '.nii.gz'))}
    made = {'dseg.nii.gz', 'mask.nii.gz', 'morph.tsv', 'qc.tsv'}
    assert kinds == (made if image.status == 'done' else set())


@pytest.mark.slow
def test_the_others_are_not_touched(images):
    assert images.code == 1
    assert 'Traceback' not in images.stderr
    status = images.status()
    expected = Counter(image.status for image in IMAGES) + Counter(done=len(GOOD))
    assert Counter(row['status'] for row in status.values()) == expected
    counts = [f'{expected[kind]} {kind}' for kind in ('done', 'skipped', 'failed')]
    assert images.stdout.splitlines()[-1] == ', '.join(counts)
    assert all(status[name]['status'] == 'done' for name in GOOD)
    volumes = read_table(images.out / 'group_morph.tsv')
    assert {row['source'].removeprefix('bids:raw:') for row in volumes} == {
        source for source, row in status.items() if row['status'] == 'done'
    }
    # A failure can be looked into.
    crashes = [row['crash_file'] for row in status.values() if row['crash_file'] != 'n/a']
    assert crashes
    assert all((images.out / crash).is_file() for crash in crashes)


@pytest.mark.slow
@pytest.mark.parametrize('reference', REFERENCES, ids=lambda reference: reference.what)
def test_bad_reference(images, reference):
    found = [line for line in lines(images, GOOD[0]) if f'/{reference.dataset}/' in line]
    table = read_table(images.out / 'sub-01/anat/sub-01_seg-synthseg_desc-T1w_dice.tsv')
    used = reference.dataset in {row['reference'] for row in table}
    assert used is not bool(reference.says)
    assert len(found) == bool(reference.says)
    assert all(reference.says in line for line in found)


@pytest.mark.slow
@pytest.mark.parametrize('run', RUNS, ids=lambda run: run.what)
def test_bad_run(runs, run):
    if run.what not in runs:
        pytest.skip('needs setpriv or unshare')
    result = runs[run.what]
    assert result.code == run.code
    told = [line for line in result.stderr.splitlines() if not line.startswith('INFO')]
    assert 'Traceback' not in result.stderr
    assert [line for line in told if run.says in line]
    if run.code != 1:
        assert len(told) == 1
        assert not (result.out / 'group_status.tsv').exists()


@pytest.mark.slow
def test_full_disk_costs_no_other_image(runs):
    for what in ('disk full on the way', 'disk of the work folder full'):
        if what not in runs:
            pytest.skip('needs unshare')
        result = runs[what]
        assert {name: row['status'] for name, row in result.status().items()} == {
            GOOD[0]: 'done',
            GOOD[1]: 'failed',
        }
        anat = {path.name for path in (result.out / 'sub-01/anat').iterdir()}
        assert {'sub-01_seg-synthseg_desc-T1w_dseg.json'} <= anat
        assert not [name for name in anat if 'FLAIR' in name or name.startswith('.')]
        # Of each disk only one line.
        assert len(lines(result, GOOD[1])) == 1


@pytest.mark.slow
def test_two_runs_at_once(tmp_path, tiny_model):
    first, second = run_twice(tmp_path, tiny_model)
    assert (first.code, first.stdout.splitlines()[-1]) == (0, '1 done, 0 skipped, 0 failed')
    TWO_RUNS.check(second)
    TWO_RUNS.check_next(run_here(tmp_path / 'raw', tmp_path / 'out', tiny_model))
    assert [row['status'] for row in first.status().values()] == ['done']
    assert not [path for path in first.out.rglob('.*') if re.match(r'\.\d', path.name)]


def test_group_tables_wait_for_those_of_another_run(tmp_path):
    (tmp_path / 'logs').mkdir()
    with FileLock(tmp_path / 'logs' / '.tables.lock'):
        thread = threading.Thread(target=write_tables, args=(tmp_path, []))
        thread.start()
        thread.join(1)
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow
def test_documentation_is_up_to_date(results, folder):
    if len(results[1]) < len(RUNS) or not possible(unprivileged()):
        pytest.skip('needs setpriv and unshare')
    build = runpy.run_path(str(DOCS / 'build.py'))
    page = build['page']('errors', build['printed'](*results, folder))
    assert page == (DOCS / 'errors.rst').read_text(encoding='utf-8'), 'run docs/build.py errors'
