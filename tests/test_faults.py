"""Whatever happens to a run, nothing is lost or half-written, and the next run completes."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import nibabel as nib
import pytest
from app import Run, contents, launch
from faults import FAULTS, in_own_mounts, make_dataset

from synthseg_bids.bids.save import output_files

DOCS = Path(__file__).parents[1] / 'docs'


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, tiny_model) -> Run:
    return complete(tmp_path_factory.mktemp('undisturbed'), tiny_model)


def complete(folder: Path, model: Path) -> Run:
    raw = folder / 'raw' if (folder / 'raw').exists() else make_dataset(folder)
    return launch(raw, folder / 'out', model, '--nprocs', 1, '-w', folder / 'work')


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.what)
def test_fault(fault, undisturbed, tiny_model, tmp_path):
    if fault.mounts and subprocess.run([*in_own_mounts(), 'true'], capture_output=True).returncode:
        pytest.skip('nothing can be mounted here')
    make_dataset(tmp_path)
    run = fault.inflict(tmp_path, tiny_model)
    assert (run.code, (run.stdout.splitlines() or [''])[-1]) == (fault.code, fault.last)
    assert any(fault.says in line for line in run.stderr.splitlines())
    assert 'Traceback' not in run.stderr
    kept = complete_images(run.out)
    next_run = complete(tmp_path, tiny_model)
    assert (next_run.code, next_run.stdout) == (0, f'{fault.again}\n'), next_run.stderr
    # What was complete was not done again, and all else was.
    assert len(kept) == int(re.findall(r'(\d+) skipped', fault.again)[0])
    assert 'waiting' not in next_run.stderr
    assert contents(next_run.out) == contents(undisturbed.out)
    notes = {row['reason'].partition(';')[0] for row in next_run.status().values()}
    assert ('its worker process was killed (out of memory, or by a signal)' in notes) is (
        fault.what == 'worker killed'
    )


def complete_images(out: Path) -> set[str]:
    """List the images that count as done, all of whose outputs can be read."""
    stems = set()
    for sidecar in out.glob('sub-*/anat/*_dseg.json'):
        stem = str(sidecar.relative_to(out)).removesuffix('_dseg.json')
        for name in output_files(stem, ['dseg', 'morph', 'qc']):
            assert (out / name).stat().st_size
        nib.load(out / f'{stem}_dseg.nii.gz').get_fdata()
        stems.add(stem)
    return stems


def test_documentation_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    module = importlib.import_module('write_faults')
    assert module.page() == (DOCS / 'faults.rst').read_text(encoding='utf-8')
    for file, name in module.tests():
        assert f'def {name}(' in (DOCS.parent / file).read_text(encoding='utf-8')
