"""Whatever happens to a run, nothing is lost or half-written, and the next run completes."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from pathlib import Path

import nibabel as nib
import pytest
import torch
from app import Run, contents, options, run_here
from faults import FAULTS, in_own_mounts
from other_faults import ELSEWHERE, GPU_LOST, GPU_LOST_FOR_GOOD, GPU_MEMORY
from running import make_dataset
from torch import Tensor

from synthseg_bids.app.main import main
from synthseg_bids.bids.save import output_files
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.segmenter import cached_segmenter

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, tiny_model) -> Run:
    folder = tmp_path_factory.mktemp('undisturbed')
    raw = make_dataset(folder)
    return run_here(raw, folder / 'out', tiny_model, '-w', folder / 'work')


def complete(folder: Path, model: Path) -> Run:
    return run_here(folder / 'raw', folder / 'out', model, '-w', folder / 'work')


@pytest.mark.slow
@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.what)
def test_fault(fault, undisturbed, tiny_model, tmp_path):
    if fault.mounts and subprocess.run([*in_own_mounts(), 'true'], capture_output=True).returncode:
        pytest.skip('nothing can be mounted here')
    make_dataset(tmp_path)
    run = fault.inflict(tmp_path, tiny_model)
    fault.check(run)
    kept = complete_images(run.out)
    next_run = complete(tmp_path, tiny_model)
    fault.check_next(next_run)
    # What was complete was not done again, and all else was.
    assert len(kept) == int(re.findall(r'(\d+) skipped', fault.again)[0])
    assert 'waiting' not in next_run.stderr
    assert contents(next_run.out) == contents(undisturbed.out)
    notes = {row['reason'].partition(';')[0] for row in next_run.status().values()}
    assert ('its worker process was killed (out of memory, or by a signal)' in notes) is (
        fault.what == 'worker killed'
    )


@pytest.mark.slow
@pytest.mark.parametrize('fault', [GPU_MEMORY, GPU_LOST, GPU_LOST_FOR_GOOD],
                         ids=lambda fault: fault.what)  # fmt: skip
def test_gpu_fault(fault, undisturbed, tiny_model, tmp_path, monkeypatch, capsys, caplog):
    """There is no GPU here: what one would raise is raised by the network on the CPU."""
    raw, calls, run_network = make_dataset(tmp_path), [], Engine.features

    def features(engine: Engine, x: Tensor) -> Tensor:
        calls.append(engine)
        if fault is GPU_MEMORY and len(calls) <= 3:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')
        # Both images are seen straight and mirrored, and only the spare network does not fail.
        if fault is not GPU_MEMORY and len(calls) > 2 and engine is calls[0]:
            raise RuntimeError('CUDA error: unspecified launch failure\nCompile with ...')
        return run_network(engine, x)

    monkeypatch.setattr(Engine, 'features', features)
    cached_segmenter.cache_clear()
    plugin = tmp_path / 'plugin.toml'
    plugin.write_text('plugin = "Linear"\n')
    arguments = ['--use-plugin', plugin, '-w', tmp_path / 'work']
    if fault is GPU_LOST_FOR_GOOD:
        arguments.append('--no-gpu-fallback')
    code = main(options(raw, tmp_path / 'out', tiny_model, *arguments))
    cached_segmenter.cache_clear()
    ours = [record for record in caplog.records if record.name.startswith('synthseg_bids')]
    said = '\n'.join(record.getMessage() for record in ours)
    run = Run(tmp_path / 'out', code, capsys.readouterr().out, said)
    fault.check(run)
    assert [row['reason'] for row in run.status().values() if fault.says in row['reason']]
    monkeypatch.undo()
    next_run = complete(tmp_path, tiny_model)
    fault.check_next(next_run)
    # The sidecar tells, too; all else is as if nothing had happened.
    different = {
        name
        for name, content in contents(next_run.out).items()
        if content != contents(undisturbed.out)[name]
    }
    assert len(different) == (fault is not GPU_LOST_FOR_GOOD)
    assert all('Fallback' in json.loads((run.out / name).read_text()) for name in different)


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


def test_documentation_is_up_to_date():
    page = runpy.run_path(str(DOCS / 'build.py'))['page']('faults')
    assert page == (DOCS / 'faults.rst').read_text(encoding='utf-8'), 'run docs/build.py faults'
    for other in ELSEWHERE:
        file, _, name = other.test.partition('::')
        assert f'def {name}(' in (DOCS.parent / file).read_text(encoding='utf-8')
