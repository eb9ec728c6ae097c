"""Segmenting from Python."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import nibabel as nib
import numpy as np
import pytest
import torch
from grids import oriented_affine
from nipype.interfaces.base import TraitError

from synthseg_bids import Segmenter
from synthseg_bids.images.checks import InputImageError
from synthseg_bids.inference.reference import reference_segmenter
from synthseg_bids.interfaces import SegmentImage, SynthesizeImage, TrainSynthSeg
from synthseg_bids.interfaces.gpu_slots import device_for
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.qc_rules import VERDICT
from synthseg_bids.training.distributed import rank_device
from synthseg_bids.workflows.resources import plan_resources

AFFINE = oriented_affine('LIA', (3, 4, 5), 10)


@pytest.fixture(scope='module')
def segment(tiny_model) -> Segmenter:
    return Segmenter(tiny_model, 'cpu')


@pytest.fixture
def image(rng) -> nib.Nifti1Image:
    scan = nib.Nifti1Image(rng.normal(size=(16, 12, 10)).astype(np.float32), AFFINE)
    scan.set_qform(AFFINE, code=1)
    return scan


def test_an_image_gives_images_and_pandas(segment, image):
    result = segment(image)
    np.testing.assert_allclose(result.labels.affine, AFFINE, atol=1e-4)
    assert result.labels.header['qform_code'] == 1
    assert result.labels.get_data_dtype() == np.int16
    labels = np.asarray(result.labels.dataobj)
    assert labels.shape == image.shape
    volumes = result.volumes
    for label in segmentation_labels():
        if label.index:
            expected = (labels == label.index).sum() * 60
            assert volumes[label.name] == pytest.approx(expected, rel=1e-4)
    assert volumes['Total-Intracranial'] > 0
    assert repr(result).startswith('<Result image: 16 x 12 x 10 voxels segmented in ')
    assert result.qc.index[-1] == VERDICT
    assert result.qc.loc[VERDICT, 'value'] in ('pass', 'review', 'fail')


def test_posteriors_come_when_asked_for(segment, image):
    result = segment(image)
    assert result.segmentation.posteriors is None
    posteriors = result.posteriors.get_fdata(dtype=np.float32)
    assert posteriors.shape == (*image.shape, 33)
    np.testing.assert_allclose(posteriors.sum(-1), 1, atol=0.1)
    labels = np.array([label.index for label in segmentation_labels()])
    chosen = labels[posteriors.argmax(-1)]
    # But for what rounding to bytes makes equal.
    assert (chosen == np.asarray(result.labels.dataobj)).mean() > 0.9


def test_a_path_gives_what_its_image_gives(segment, image, tmp_path):
    nib.save(image, tmp_path / 'scan.nii.gz')
    from_file = segment(tmp_path / 'scan.nii.gz')
    np.testing.assert_array_equal(
        np.asarray(from_file.labels.dataobj), np.asarray(segment(image).labels.dataobj)
    )


def test_ct_is_clipped(segment, image):
    wide = nib.Nifti1Image(image.get_fdata() * 1000, AFFINE)
    clipped = nib.Nifti1Image(np.clip(wide.get_fdata(), 0, 80), AFFINE)
    as_ct, plain, by_hand = segment(wide, ct=True), segment(wide), segment(clipped)
    np.testing.assert_array_equal(as_ct.segmentation.labels, by_hand.segmentation.labels)
    assert (as_ct.segmentation.labels != plain.segmentation.labels).any()


@pytest.mark.parametrize('prefetch', [0, 1, 5])
def test_a_bad_scan_costs_a_batch_nothing_else(segment, image, tmp_path, prefetch):
    nib.save(image, tmp_path / 'good.nii.gz')
    (tmp_path / 'bad.nii.gz').write_bytes(b'')
    empty = np.zeros((30, 30, 30))
    empty[15, 15, 15] = 1
    empty = nib.Nifti1Image(empty, AFFINE)
    sources = [tmp_path / 'bad.nii.gz', tmp_path / 'good.nii.gz', image, None, empty]
    found = list(segment.batch(sources, prefetch=prefetch))
    assert [source for source, _ in found] == sources
    assert isinstance(found[0][1], InputImageError)
    assert 'NoneType: give a path or a nibabel image' in str(found[3][1])
    assert '99 % of its voxels have the value 0' in str(found[4][1])
    np.testing.assert_array_equal(found[1][1].segmentation.labels, found[2][1].segmentation.labels)


def test_a_batch_may_be_endless(segment, image):
    def scans():
        while True:
            yield image

    results = segment.batch(scans())
    next(results)
    _, second = next(results)
    assert second.labels.shape == image.shape
    results.close()


def test_objects_of_other_threads_do_not_matter(tiny_model, rng):
    scans = [nib.Nifti1Image(rng.random((20, 18, 16)), AFFINE) for _ in range(4)]
    alone = [Segmenter(tiny_model, 'cpu')(scan).segmentation.labels for scan in scans]

    def several(scan):
        segment = Segmenter(tiny_model, 'cpu')
        return [segment(scan).segmentation.labels for _ in range(3)]

    with ThreadPoolExecutor(len(scans)) as pool:
        for labels, expected in zip(pool.map(several, scans), alone, strict=True):
            for found in labels:
                np.testing.assert_array_equal(found, expected)


def test_what_is_no_scan_is_refused(segment, rng):
    with pytest.raises(InputImageError, match='image: '):
        segment(nib.Nifti1Image(rng.random((4, 4, 4, 3)), np.eye(4)))
    with pytest.raises(TypeError, match='ndarray'):
        segment(rng.random((4, 4, 4)))


def test_importing_the_package_does_not_import_torch():
    code = 'import sys, synthseg_bids; assert "torch" not in sys.modules; synthseg_bids.Segmenter'
    subprocess.run([sys.executable, '-c', code], check=True)
    with pytest.raises(ImportError):
        from synthseg_bids import NoSuchThing  # noqa: F401


def test_arrays_and_impossible_threads_are_refused(segment, tiny_model):
    with pytest.raises(TypeError, match=r'ndarray: give .*Nifti1Image\(array, affine\)'):
        segment(np.zeros((4, 4, 4)))
    for threads in (0, -2):
        with pytest.raises(ValueError, match=f'^{threads} threads: give at least 1$'):
            Segmenter(tiny_model, 'cpu', threads=threads)


def test_a_segmenter_and_its_results_travel(segment, image):
    result = segment(image)
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.segmentation.labels, result.segmentation.labels)
    assert again.volumes.equals(result.volumes)
    assert again.posteriors.shape == result.posteriors.shape
    with ProcessPoolExecutor(1, get_context('spawn')) as pool:
        labels = pool.submit(segment, image).result().segmentation.labels
    np.testing.assert_array_equal(labels, result.segmentation.labels)


def test_a_segmenter_of_a_relative_path_travels_to_other_folders(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tiny_model.parent)
    sent = pickle.dumps(Segmenter(tiny_model.name, 'cpu', threads=1))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(sent).card.name == 'tiny'
    # On another machine a shipped model lies elsewhere.
    assert b'default.safetensors' not in pickle.dumps(Segmenter(device='cpu', threads=1))


def test_devices_may_be_those_of_torch(tiny_model):
    cpu, gpu = torch.device('cpu'), torch.device('cuda:1')
    assert Segmenter(tiny_model, cpu).device.type == 'cpu'
    assert reference_segmenter(tiny_model, cpu).device == cpu
    assert rank_device(cpu) == cpu
    assert plan_resources(cpu).devices == ('cpu',)
    assert device_for(True, gpu) == 'cuda:1'
    assert SegmentImage(devices=[gpu, 'cpu']).inputs.devices == ['cuda:1', 'cpu']
    for interface in (SynthesizeImage, TrainSynthSeg):
        assert interface(device=gpu).inputs.device == 'cuda:1'
        with pytest.raises(TraitError):
            interface(device=1)


FORK = """
import os, sys
import nibabel as nib, numpy as np
from synthseg_bids import Segmenter

image = nib.Nifti1Image(np.random.default_rng(0).random((20, 18, 16)), np.eye(4))
segment = Segmenter(sys.argv[1], 'cpu', threads=2)
segment(image)
child = os.fork()
if not child:
    try:
        Segmenter(sys.argv[1], 'cpu', threads=2)(image)
    except ValueError as error:
        print('refused:', error, flush=True)
    Segmenter(sys.argv[1], 'cpu', threads=1)(image)
    print('one thread works', flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_threads_do_not_survive_a_fork(tiny_model):
    code = [sys.executable, '-W', 'ignore', '-c', FORK, str(tiny_model)]
    said = subprocess.run(code, capture_output=True, text=True, timeout=120).stdout.splitlines()
    assert said[0].startswith('refused: this process was forked off one')
    assert 'spawn' in said[0]
    assert said[1] == 'one thread works'
