"""From files to label maps: how a scan is stored does not change its segmentation."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff

from synthseg_bids.images.volume_io import read_volume
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.models.card import ModelCard, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D

ORIENTATIONS = [
    [(axis, sign) for axis, sign in zip(axes, signs, strict=True)]
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.fixture(scope='module')
def segmenter(tiny_model) -> Segmenter:
    return Segmenter(tiny_model, 'cpu')


@settings(deadline=None, max_examples=25)
@given(
    ornt=st.sampled_from(ORIENTATIONS),
    shape=st.tuples(*[st.integers(2, 14)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 8)] * 3),
    tilt=st.floats(-0.3, 0.3),
    shear=st.floats(-0.1, 0.1),
    seed=st.integers(0, 99),
)
def test_a_reoriented_scan_gives_the_reoriented_labels(
    segmenter, ornt, shape, spacing, tilt, shear, seed
):
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    rotation = np.array([
        [np.cos(tilt), -np.sin(tilt), shear, 10],
        [np.sin(tilt), np.cos(tilt), 0, -20],
        [0, 0, 1, 30],
        [0, 0, 0, 1],
    ])  # fmt: skip
    affine = rotation @ np.diag([*spacing, 1])
    turned = apply_orientation(data, ornt)
    turned_affine = affine @ inv_ornt_aff(ornt, shape)
    expected = segmenter.segment(data, affine, posteriors=True)
    found = segmenter.segment(turned, turned_affine, posteriors=True)
    np.testing.assert_array_equal(found.labels, apply_orientation(expected.labels, ornt))
    for ours, theirs in zip(found.posteriors, expected.posteriors, strict=True):
        np.testing.assert_array_equal(ours, apply_orientation(theirs, ornt))
    np.testing.assert_allclose(found.volumes_mm3, expected.volumes_mm3, rtol=1e-6)


@pytest.fixture
def whole_numbers(rng) -> np.ndarray:
    return rng.integers(0, 200, (12, 14, 9))


AFFINE = np.array([[-3.0, 0.2, 0, 20], [0.2, 3, 0.5, -20], [0, -0.5, 4, 5], [0, 0, 0, 1]])


def save(path, data, header=None):
    nib.save(nib.Nifti1Image(data, AFFINE, header), path)
    return path


def test_number_formats_do_not_matter(segmenter, whole_numbers, tmp_path):
    raw = nib.Nifti1Header(endianness='>')
    paths = [
        save(tmp_path / 'uint8.nii.gz', whole_numbers.astype(np.uint8)),
        save(tmp_path / 'int16.nii', whole_numbers.astype(np.int16)),
        save(tmp_path / 'float64.nii', whole_numbers.astype(np.float64)),
        save(tmp_path / 'big.nii.gz', whole_numbers.astype('>f4'), raw),
        save(tmp_path / 'volume.nii', whole_numbers[..., None].astype(np.float32)),
        save(tmp_path / 'axes.nii.gz', whole_numbers[..., None, None].astype(np.float32)),
    ]
    nib.save(
        nib.MGHImage(whole_numbers.astype(np.float32), AFFINE.astype(np.float32)),
        tmp_path / 'scan.mgz',
    )
    scaled = nib.Nifti1Image(whole_numbers.astype(np.float64), AFFINE)
    scaled.set_data_dtype(np.int16)
    scaled.header.set_slope_inter(0.5, 3)
    nib.save(scaled, tmp_path / 'scaled.nii')
    nib.save(nib.Nifti1Pair(whole_numbers.astype(np.uint8), AFFINE), tmp_path / 'pair.img')
    paths += [tmp_path / name for name in ('scan.mgz', 'scaled.nii', 'pair.img', 'pair.hdr')]
    scans = [read_volume(path) for path in paths]
    maps = [segmenter.segment(scan.data, AFFINE, posteriors=True).posteriors for scan in scans]
    assert len(np.unique(maps[0])) > 20
    for path, found in zip(paths, maps, strict=True):
        np.testing.assert_array_equal(found, maps[0], err_msg=path.name)


def test_a_conflict_of_forms_follows_nibabel(segmenter, whole_numbers, tmp_path):
    image = nib.Nifti1Image(whole_numbers.astype(np.float32), AFFINE)
    other = AFFINE.copy()
    other[:3, 3] += 25
    image.set_qform(other, code=1)
    for code, expected in ((2, AFFINE), (0, other)):
        image.set_sform(AFFINE, code=code)
        nib.save(image, tmp_path / 'scan.nii')
        scan = read_volume(tmp_path / 'scan.nii')
        # The nearest rotation is what a qform can hold.
        np.testing.assert_allclose(scan.affine[:3, 3], expected[:3, 3], atol=1e-4)
        np.testing.assert_allclose(scan.affine, nib.load(tmp_path / 'scan.nii').affine)


@pytest.mark.parametrize(
    ('shape', 'spacing'), [((40, 44, 2), (1, 1, 8)), ((10, 48, 48), (6, 0.5, 0.5))]
)
def test_few_thick_slices(segmenter, shape, spacing, rng):
    data = rng.normal(size=shape)
    found = segmenter.segment(data, np.diag([*spacing, 1.0]))
    assert found.labels.shape == shape
    assert found.volumes_mm3.sum() == pytest.approx(np.prod(shape) * np.prod(spacing), rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('shape', 'spacing'), [((256, 256, 256), (1, 1, 1)), ((512, 512, 300), (0.5, 0.5, 0.6))]
)
def test_large_scans(shape, spacing, tmp_path):
    torch.manual_seed(0)
    config = NetworkConfig(3, 2, levels=3, norm='instance', norm_placement='conv')
    card = ModelCard('three', config, spacing_mm=4.0, labels=(0, 2, 41))
    save_model(tmp_path / 'three.safetensors', UNet3D(config), card)
    data = np.zeros(shape, dtype=np.int16)
    data[tuple(slice(n // 4, -n // 4) for n in shape)] = 100
    nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1])), tmp_path / 'large.nii')
    volume = read_volume(tmp_path / 'large.nii')
    segmenter = Segmenter(tmp_path / 'three.safetensors', 'cpu', flip=False)
    found = segmenter.segment(volume.data, volume.affine)
    assert found.labels.shape == shape
    extent = np.prod(np.multiply(shape, spacing))
    assert found.volumes_mm3.sum() == pytest.approx(extent, rel=0.05)
