from __future__ import annotations

import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock
from heads import write_heads
from matplotlib.image import imread

from synthseg_bids.cli.main import main
from synthseg_bids.files import read_table
from synthseg_bids.interfaces import (
    CalibrateModel,
    CompareSegmentations,
    MeasureVolumes,
    PlotSamples,
    PrepareLabels,
    SaveDerivatives,
    SegmentImage,
    SynthesizeImage,
    TrainSynthSeg,
)
from synthseg_bids.interfaces.gpu_slots import claim_device
from synthseg_bids.labels import generation_labels, segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.models.registry import load_model
from synthseg_bids.synth.label_maps import LabelMapError, load_label_map


def write(path: Path, data: np.ndarray, spacing: float = 8.0) -> Path:
    nib.save(nib.Nifti1Image(data, np.diag([spacing] * 3 + [1.0])), path)
    return path


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A label map of blocks, every generation label at least once."""
    values = np.array([label.index for label in generation_labels()], dtype=np.int16)
    blocks = values[np.arange(64) % len(values)].reshape(4, 4, 4)
    return write(tmp_path / 'head.nii.gz', np.kron(blocks, np.ones((6, 6, 6), np.int16)))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    data = np.zeros((6, 6, 6), np.int16)
    data[:2], data[2:4], data[5] = 2, 41, 17
    return write(tmp_path / 'labels.nii.gz', data, 2.0)


def test_segment(tmp_path, tiny_model, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = write(tmp_path / 'image.nii.gz', rng.random((9, 10, 11)).astype('f4'))
    node = SegmentImage(in_file=str(image), model=str(tiny_model), posteriors=True, num_threads=1)
    outputs = node.run().outputs
    assert nib.load(outputs.out_labels).shape == (9, 10, 11)
    assert nib.load(outputs.out_posteriors).shape == (9, 10, 11, len(segmentation_labels()))
    assert len(outputs.soft_volumes_mm3) == len(segmentation_labels())
    assert outputs.provenance['ModelName'] == 'tiny'
    assert len(outputs.provenance['InputSHA256']) == 64


def test_gpu_nodes_are_recognised_and_devices_do_not_count_as_inputs(tmp_path, rng):
    from nipype.pipeline.engine import Node

    image = write(tmp_path / 'image.nii.gz', rng.random((4, 4, 4)).astype('f4'))
    one = Node(SegmentImage(in_file=str(image), use_gpu=True, devices=['cuda:1']), name='one')
    two = Node(SegmentImage(in_file=str(image), num_threads=7), name='two')
    assert one.is_gpu_node()
    assert not two.is_gpu_node()
    hashes = [n.inputs.get_hashval(hash_method='content')[1] for n in (one, two)]
    assert hashes[0] == hashes[1]
    two.inputs.flip = False
    assert two.inputs.get_hashval(hash_method='content')[1] != hashes[0]


def test_slots_are_taken_once_and_given_back(tmp_path):
    devices = ['cuda:0', 'cuda:1']
    with claim_device(devices, 2, tmp_path) as first:
        taken = [FileLock(tmp_path / f'cuda-{n}_{slot}.lock') for n in '01' for slot in '01']
        free = [lock for lock in taken if not lock_is_held(lock)]
        assert len(free) == 3
    with claim_device(devices, 2, tmp_path) as again:
        # The network is there already.
        assert again == first


@pytest.mark.parametrize(
    ('visible', 'name'),
    [(None, 'cuda-1'), ('2,3', 'cuda-3'), ('GPU-8f, MIG-GPU-8f/1/0', 'cuda-MIG-GPU-8f-1-0'),
     ('5', 'cuda-1')],
)  # fmt: skip
def test_locks_are_of_physical_devices(tmp_path, monkeypatch, visible, name):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    with claim_device(['cuda:1'], 1, tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [f'{name}_0.lock']


def lock_is_held(lock: FileLock) -> bool:
    try:
        with lock.acquire(blocking=False):
            return False
    except TimeoutError:
        return True


def test_a_slot_is_waited_for(tmp_path):
    order = []

    def use() -> None:
        with claim_device(['cuda:0'], 1, tmp_path, poll_s=0.01):
            order.append('second')

    with claim_device(['cuda:0'], 1, tmp_path):
        other = threading.Thread(target=use)
        other.start()
        order.append('first')
    other.join(10)
    assert order == ['first', 'second']


def test_measure(tmp_path, labels, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = read_table(Path(MeasureVolumes(in_labels=str(labels)).run().outputs.out_table))
    volumes = {row['index']: row['volume_mm3'] for row in rows}
    assert (volumes['2'], volumes['17'], volumes['53']) == ('576', '288', '0')
    assert volumes['n/a'] == '1440.000'
    assert {row['soft_volume_mm3'] for row in rows} == {'n/a'}


def test_compare_refuses_what_it_cannot_use(tmp_path, labels, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parcels = np.arange(100, 108, dtype='i2').reshape(2, 2, 2)
    gif = write(tmp_path / 'gif.nii.gz', parcels, 4.0)
    away = nib.load(labels)
    away.set_sform(away.affine + np.array([[0, 0, 0, 99]] + [[0] * 4] * 3), code=1)
    nib.save(away, tmp_path / 'away.nii.gz')
    references = {
        'same': str(labels),
        'gif': str(gif),
        'away': str(tmp_path / 'away.nii.gz'),
    }
    outputs = CompareSegmentations(in_labels=str(labels), references=references).run().outputs
    assert outputs.compared == ['same']
    assert [Path(line.partition(':')[0]).name for line in outputs.refused] == [
        'gif.nii.gz',
        'away.nii.gz',
    ]
    rows = read_table(Path(outputs.out_table))
    assert {row['dice'] for row in rows} == {'1', 'n/a'}
    assert rows[-1]['name'] == MEAN_NAME


def test_save(tmp_path, labels):
    node = SaveDerivatives(
        out_dir=str(tmp_path / 'out'),
        stem='sub-1/anat/sub-1_seg-synthseg_desc-T1w',
        source='bids:raw:x',
        provenance={'InputSHA256': 'x'},
        in_labels=str(labels),
        in_volumes=str(labels),
        refused=['ref: why'],
    )
    outputs = node.run().outputs
    assert [Path(path).name for path in outputs.out_files] == [
        f'sub-1_seg-synthseg_desc-T1w_{end}'
        for end in ('morph.tsv', 'morph.json', 'dseg.nii.gz', 'dseg.json')
    ]
    assert outputs.notes == ['ref: why']


def test_synthesize(tmp_path, head, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = SynthesizeImage(label_maps=[str(head)], n_images=2, size=(16, 16, 16), seed=3)
    outputs = node.run().outputs
    assert [nib.load(path).shape for path in outputs.out_images] == [(16, 16, 16)] * 2
    known = {label.index for label in segmentation_labels()}
    assert {*np.unique(nib.load(outputs.out_labels[0]).dataobj)} <= known


@pytest.mark.parametrize('name', ['size', 'device', 'use_gpu', 'seed'])
def test_traits_of_one_name_are_the_same(name):
    interfaces = (SegmentImage, SynthesizeImage, TrainSynthSeg, CalibrateModel)
    found = [i.input_spec().traits(transient=None).get(name) for i in interfaces]
    assert len([trait for trait in found if trait]) > 1
    assert len({(type(trait.trait_type), trait.desc) for trait in found if trait}) == 1


def test_samples_are_drawn(tmp_path, head, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = SynthesizeImage(label_maps=[str(head)], n_images=2, size=(16, 16, 16)).run().outputs
    figure = PlotSamples(in_images=made.out_images, in_labels=made.out_labels).run().outputs
    assert imread(figure.out_figure).std() > 0.05


def test_prepare_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in').mkdir()
    source = write_heads(tmp_path / 'in', count=1) / 'map-0_dseg.nii.gz'
    (tmp_path / 'table.tsv').write_text('name\tage\tlicence\nmap-0\tinfant\tCC0\n')
    outputs = PrepareLabels(in_file=str(source), table='table.tsv').run().outputs
    assert main(['prepare-labels', str(source), 'cli', '--table', 'table.tsv']) == 0
    for path in (outputs.out_labels, outputs.out_sidecar, outputs.out_figure):
        assert (tmp_path / 'cli' / Path(path).name).read_bytes() == Path(path).read_bytes()
    found = load_label_map(Path(outputs.out_labels))
    assert found.age_group == 'infant'
    assert found.merged


def test_calibrate(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in').mkdir()
    maps = sorted(str(path) for path in write_heads(tmp_path / 'in', count=2).iterdir())
    inputs = {'in_model': str(tiny_model), 'fit_maps': maps[:1], 'n_scans': 1,
              'intensity_weight': 0.5}  # fmt: skip
    outputs = CalibrateModel(check_maps=maps[1:], **inputs).run().outputs
    network, card = load_model(outputs.out_model)
    assert card.sha256 == outputs.out_sha256
    facts = card.validation['calibration']
    assert (facts['temperature'], facts['calibration_error']) == (
        outputs.temperature,
        outputs.error,
    )
    before = load_model(tiny_model)[0].likelihood.bias
    expected = before / outputs.temperature + torch.tensor([*facts['bias'].values()])
    torch.testing.assert_close(network.likelihood.bias, expected, atol=1e-3, rtol=1e-2)
    assert card.intensity_weight == 0.5
    with pytest.raises(LabelMapError, match=r'map-0_dseg\.nii\.gz.*name different ones'):
        CalibrateModel(check_maps=maps, **inputs).run()


def test_train(tmp_path, head, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = TrainSynthSeg(
        label_maps=[str(head)],
        size=(16, 16, 16),
        network={'features': 2, 'levels': 2},
        training={'steps': 1, 'epoch_steps': 1},
        device='cpu',
    )
    _, card = load_model(node.run().outputs.out_model)
    assert card.training['steps'] == 1
    assert card.network.levels == 2
