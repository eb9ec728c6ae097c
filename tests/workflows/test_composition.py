"""Our workflow inside a larger one, run by Nipype's own plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype import config
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import MapNode, Node, Workflow
from test_nipype_conventions import EXAMPLE, load_example

from synthseg_bids.files import read_table
from synthseg_bids.interfaces import SegmentImage
from synthseg_bids.workflows import init_image_wf

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')


@pytest.fixture(autouse=True)
def _content_decides(monkeypatch):
    monkeypatch.setenv('NO_ET', '1')
    before = {key: config.get('execution', key) for key in ('hash_method', 'create_report')}
    config.update_config({'execution': {'hash_method': 'content', 'create_report': 'false'}})
    yield
    config.update_config({'execution': before})


def write(path: Path, shape: tuple[int, ...], seed: int = 0) -> Path:
    data = np.random.default_rng(seed).random(shape).astype('f4')
    nib.save(nib.Nifti1Image(data, np.diag([-8.0, 8, 9, 1])), path)
    return path


@pytest.fixture
def scans(tmp_path):
    return write(tmp_path / 't1w.nii.gz', (9, 10, 11)), write(tmp_path / 'flair.nii', (12, 9, 6))


def results(folder: Path) -> dict[str, int]:
    """Return when each node was computed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob('result_*.pklz')}


def count_labels(in_labels):
    import nibabel
    import numpy

    return len(numpy.unique(nibabel.load(in_labels).dataobj))


def larger_workflow(folder: Path, image: Path, model: Path) -> Workflow:
    """Feed our labels to an interface that knows nothing of us."""
    inner = init_image_wf(model=str(model), name='segmentation')
    inner.inputs.inputnode.in_file = str(image)
    count = Node(Function(['in_labels'], ['n_labels'], count_labels), name='count')
    workflow = Workflow(name='larger', base_dir=str(folder / 'work'))
    workflow.connect(inner, 'outputnode.out_labels', count, 'in_labels')
    return workflow


def test_a_second_run_computes_what_has_changed(tmp_path, scans, tiny_model):
    image = scans[0]
    larger_workflow(tmp_path, image, tiny_model).run('Linear')
    first = results(tmp_path / 'work')
    assert {'segment', 'measure', 'count'} <= {*first}

    workflow = larger_workflow(tmp_path, image, tiny_model)
    workflow.get_node('segmentation.segment').inputs.trait_set(num_threads=2, devices=['cpu'])
    os.utime(image)
    workflow.run('Linear')
    assert results(tmp_path / 'work') == first

    write(image, (9, 10, 11), seed=1)
    larger_workflow(tmp_path, image, tiny_model).run('Linear')
    again = results(tmp_path / 'work')
    assert again['segment'] > first['segment']
    assert again['measure'] > first['measure']


@pytest.mark.slow
def test_example_with_multiproc_and_then_from_the_cache(tmp_path, scans, tiny_model):
    command = [sys.executable, '-W', 'ignore', str(EXAMPLE), *map(str, scans)]
    command += [str(tmp_path / 'out'), '--model', str(tiny_model)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    table = tmp_path / 'out' / 'structures.tsv'
    rows = read_table(table)
    assert list(rows[0]) == ['index', 'name', 'volume_mm3', 'mean', 'std']
    assert len(rows) == 32
    first = results(tmp_path / 'out' / 'work')
    content = table.read_text()
    table.unlink()

    command += ['--plugin', 'Linear']
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0
    assert table.read_text() == content
    again = results(tmp_path / 'out' / 'work')
    # Copying the table to where it is wanted is all that was left to do.
    assert {name for name in again if again[name] != first[name]} == {'sink'}
    assert 'Executing "segment"' not in run.stdout


def test_example_measures_intensities(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, labels = np.arange(64.0).reshape(4, 4, 4), np.zeros((4, 4, 4), 'i2')
    labels[1], labels[2, 0] = 17, 53
    for name, data in (('image', image), ('labels', labels)):
        nib.save(nib.Nifti1Image(data, np.eye(4)), f'{name}.nii.gz')
    Path('volumes.tsv').write_text(
        'index\tname\tvolume_mm3\n17\tleft\t16\n53\tright\t4\n4\tnone\t0\nn/a\ttotal\t20\n'
    )
    interface = load_example().StructureIntensities(
        in_file='image.nii.gz', in_labels='labels.nii.gz', in_volumes='volumes.tsv'
    )
    rows = read_table(Path(interface.run().outputs.out_table))
    assert [(row['name'], row['volume_mm3'], row['mean']) for row in rows] == [
        ('left', '16', '23.5'),
        ('right', '4', '33.5'),
        ('none', '0', 'n/a'),
    ]
    assert float(rows[1]['std']) == pytest.approx(np.std([32, 33, 34, 35]), rel=1e-5)


def test_one_node_for_several_images(tmp_path, scans, tiny_model):
    node = MapNode(
        SegmentImage(model=str(tiny_model), num_threads=1, devices=['cpu']),
        iterfield=['in_file'],
        name='segment',
        base_dir=str(tmp_path),
    )
    node.inputs.in_file = [str(scan) for scan in scans]
    found = node.run().outputs.out_labels
    assert [nib.load(path).shape for path in found] == [(9, 10, 11), (12, 9, 6)]
