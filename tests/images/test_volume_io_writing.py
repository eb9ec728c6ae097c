"""Writing keeps the grid exactly, and leaves nothing half done."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from volumes import AFFINE, save

from synthseg_bids.images.volume_io import (
    read_volume,
    write_image,
    write_label_map,
    write_posteriors,
)


def odd_header(path: Path, data: np.ndarray) -> Path:
    """Write an image whose header holds something in every field that labels must not lose."""
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(AFFINE, code=4)
    image.set_qform(np.diag([0.9, 0.9, 3, 1]), code=2)
    image.header.set_xyzt_units('mm', 'msec')
    image.header['descrip'] = b'secret'
    image.header['cal_max'] = 900
    image.header.set_slope_inter(2, 1)
    image.header.extensions.append(nib.nifti1.Nifti1Extension('comment', b'secret'))
    nib.save(image, path)
    return path


def test_label_maps_keep_the_grid_exactly(tmp_path, data):
    scan = read_volume(odd_header(tmp_path / 'scan.nii.gz', data))
    labels = np.arange(120).reshape(4, 5, 6)
    write_label_map(tmp_path / 'labels.nii.gz', labels, scan)
    theirs, ours = (nib.load(tmp_path / name) for name in ('scan.nii.gz', 'labels.nii.gz'))
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), labels)
    assert ours.get_data_dtype() == np.int16
    assert np.asanyarray(ours.dataobj).dtype == np.int16
    quaternion = ('quatern_b', 'quatern_c', 'quatern_d', 'qoffset_x', 'qoffset_y', 'qoffset_z')
    rows = ('sform_code', 'srow_x', 'srow_y', 'srow_z')
    for key in (*rows, *quaternion, 'qform_code', 'pixdim', 'xyzt_units', 'dim'):
        np.testing.assert_array_equal(ours.header[key], theirs.header[key], err_msg=key)
    assert ours.header['descrip'] == b''
    assert ours.header['cal_max'] == 0
    assert len(ours.header.extensions) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['labels.nii.gz', 'scan.nii.gz']


def test_label_maps_of_mgz_become_nifti(tmp_path, data):
    nib.save(nib.MGHImage(data, AFFINE), tmp_path / 'scan.mgz')
    scan = read_volume(tmp_path / 'scan.mgz')
    write_label_map(tmp_path / 'labels.nii.gz', np.ones(scan.shape, np.int16), scan)
    image = nib.load(tmp_path / 'labels.nii.gz')
    np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
    # A qform cannot hold what is slightly sheared.
    assert (int(image.header['sform_code']), int(image.header['qform_code'])) == (1, 0)


def test_label_maps_of_4d_files_are_3d(tmp_path, data):
    scan = read_volume(save(tmp_path / 'scan.nii', data[..., None]))
    write_label_map(tmp_path / 'labels.nii', np.ones(scan.shape, np.int16), scan)
    assert nib.load(tmp_path / 'labels.nii').shape == (4, 5, 6)


def test_writing_refuses_mistakes_and_leaves_nothing(tmp_path, data):
    scan = read_volume(save(tmp_path / 'scan.nii', data))
    ones = np.ones(scan.shape, np.int32)
    with pytest.raises(ValueError, match=r'labels of shape \(1, 5, 6\)'):
        write_label_map(tmp_path / 'a.nii', ones[:1], scan)
    with pytest.raises(ValueError, match='do not fit uint8'):
        write_label_map(tmp_path / 'a.nii', ones * 300, scan, dtype=np.uint8)
    with pytest.raises(ValueError, match='ends in'):
        write_label_map(tmp_path / 'a.mgz', ones, scan)
    with pytest.raises(OSError, match='absent'):
        write_label_map(tmp_path / 'absent' / 'a.nii', ones, scan)
    assert [p.name for p in tmp_path.iterdir()] == ['scan.nii']


def test_an_old_file_survives_a_failed_write(tmp_path, data, monkeypatch):
    scan = read_volume(save(tmp_path / 'scan.nii', data))
    path = tmp_path / 'a.nii'
    path.write_text('old')

    def fail(image, name):
        Path(name).write_text('half')
        raise OSError('No space left on device')

    monkeypatch.setattr(nib, 'save', fail)
    with pytest.raises(OSError, match='No space'):
        write_label_map(path, np.ones(scan.shape, np.int16), scan)
    assert path.read_text() == 'old'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.nii', 'scan.nii']


@pytest.mark.parametrize(
    ('dtype', 'stored'), [('f8', 'f4'), ('f2', 'f4'), ('i2', 'i2'), ('i8', 'i4'), ('?', 'u1')]
)
def test_images_keep_values_and_grid(tmp_path, dtype, stored):
    data = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_image(tmp_path / 'a.nii.gz', data, AFFINE)
    image = nib.load(tmp_path / 'a.nii.gz')
    assert image.get_data_dtype() == np.dtype(stored)
    np.testing.assert_array_equal(image.get_fdata(), data)
    np.testing.assert_allclose(image.get_sform(), AFFINE, atol=1e-6)
    assert image.header.get_xyzt_units() == ('mm', 'sec')


@pytest.mark.parametrize('as_bytes', [False, True])
def test_posteriors_are_scaled_bytes(tmp_path, rng, as_bytes):
    posteriors = rng.dirichlet(np.ones(3), size=(4, 5, 6)).transpose(3, 0, 1, 2)
    given = np.rint(posteriors * 255).astype(np.uint8) if as_bytes else posteriors
    write_posteriors(tmp_path / 'a.nii.gz', given, AFFINE)
    image = nib.load(tmp_path / 'a.nii.gz')
    assert image.shape == (4, 5, 6, 3)
    assert image.get_data_dtype() == np.uint8
    assert image.dataobj.slope == pytest.approx(1 / 255)
    np.testing.assert_allclose(image.get_fdata(), np.moveaxis(posteriors, 0, -1), atol=0.502 / 255)
    assert image.header.get_xyzt_units() == ('mm', 'sec')


def test_posteriors_keep_the_grid_of_the_scan(tmp_path, data):
    scan = read_volume(odd_header(tmp_path / 'scan.nii.gz', data))
    write_posteriors(tmp_path / 'p.nii.gz', np.zeros((2, 4, 5, 6)), scan.affine, scan)
    header = nib.load(tmp_path / 'p.nii.gz').header
    assert (int(header['sform_code']), int(header['qform_code'])) == (4, 2)
    np.testing.assert_array_equal(header.get_sform(), scan.header.get_sform())
    np.testing.assert_array_equal(header.get_qform(), scan.header.get_qform())


@pytest.mark.parametrize('shear', [0.0, 0.3])
def test_forms_agree_or_the_one_that_cannot_is_left_out(tmp_path, data, caplog, shear):
    affine = np.array([[1.0, shear, 0, 3], [0, 2, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1]])
    write_image(tmp_path / 'a.nii', data, affine)
    header = nib.load(tmp_path / 'a.nii').header
    assert (int(header['sform_code']), int(header['qform_code'])) == (1, int(not shear))
    np.testing.assert_allclose(read_volume(tmp_path / 'a.nii').affine, affine, atol=1e-5)
    np.testing.assert_allclose(header.get_zooms(), nib.affines.voxel_sizes(affine), rtol=1e-6)
    assert not caplog.records
