"""Reading refuses what cannot be segmented, in one line."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from volumes import AFFINE, save

from synthseg_bids.images.volume_io import (
    InputImageError,
    read_label_map,
    read_volume,
    write_label_map,
)


def refusal(path: Path, reader=read_volume) -> str:
    """Return the message, after checking that it is one line about the file."""
    with pytest.raises(InputImageError) as caught:
        reader(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ')
    assert '\n' not in message
    return message


@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz', 'a.mgz', 'a.mgh', 'A.NII.GZ'])
def test_reads_every_format(tmp_path, data, name):
    kind = nib.MGHImage if 'mg' in name else nib.Nifti1Image
    nib.save(kind(data, AFFINE), tmp_path / name)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert volume.data.dtype == np.float32
    assert volume.data.flags['C_CONTIGUOUS']
    assert volume.data.flags['WRITEABLE']
    assert volume.shape == (4, 5, 6)
    np.testing.assert_allclose(volume.spacing_mm[0], 0.9, atol=1e-5)


@pytest.mark.parametrize('given', ['a.img', 'a.hdr', 'A.IMG'])
def test_pairs_keep_values_and_grid(tmp_path, data, caplog, given):
    image = nib.Nifti1Pair(data, AFFINE)
    image.set_sform(AFFINE, code=4)
    image.set_qform(AFFINE, code=2)
    nib.save(image, tmp_path / given)
    volume = read_volume(tmp_path / given)
    np.testing.assert_array_equal(volume.data, data)
    write_label_map(tmp_path / 'labels.nii.gz', np.ones(data.shape, np.int16), volume)
    found = nib.load(tmp_path / 'labels.nii.gz')
    np.testing.assert_array_equal(found.get_fdata(), 1)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
    assert (found.header['sform_code'], found.header['qform_code']) == (4, 2)
    assert not caplog.records


def test_analyze_is_read_with_a_warning(tmp_path, data, caplog):
    image = nib.AnalyzeImage(data, None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / 'a.img')
    volume = read_volume(tmp_path / 'a.img')
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-1, 2, 3]))
    assert 'left and right are a guess' in caplog.text


@pytest.mark.parametrize('missing', ['.img', '.hdr'])
@pytest.mark.parametrize('given', ['.img', '.hdr'])
def test_refuses_half_a_pair(tmp_path, data, missing, given):
    nib.save(nib.Nifti1Pair(data, AFFINE), tmp_path / 'a.img')
    (tmp_path / f'a{missing}').unlink()
    expected = 'does not exist' if missing == given else f'a{missing} is not beside it'
    assert expected in refusal(tmp_path / f'a{given}')


@pytest.mark.parametrize('given', ['.img', '.hdr'])
def test_refuses_a_truncated_pair(tmp_path, data, given):
    nib.save(nib.Nifti1Pair(data, AFFINE), tmp_path / 'a.img')
    os.truncate(tmp_path / 'a.img', 100)
    assert 'truncated' in refusal(tmp_path / f'a{given}')


def test_applies_the_scale_factor(tmp_path, rng):
    image = nib.Nifti1Image(rng.normal(size=(4, 4, 4)) * 1000, AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / 'a.nii.gz')
    np.testing.assert_allclose(
        read_volume(tmp_path / 'a.nii.gz').data, image.get_fdata(), atol=0.1
    )


def test_drops_trailing_axes_of_length_one(tmp_path, data):
    path = save(tmp_path / 'a.nii', data[..., None, None])
    np.testing.assert_array_equal(read_volume(path).data, data)


def test_refuses_a_single_slice_but_not_of_labels(tmp_path, data):
    path = save(tmp_path / 'a.nii', data[:, :, :1])
    assert 'single slice' in refusal(path)
    assert read_label_map(save(path, np.ones((4, 5, 1), 'i2'))).shape == (4, 5, 1)


@pytest.mark.parametrize(('lowest', 'dark'), [(0, 0), (2, 0), (-3, -3)])
def test_non_finite_voxels_become_background_with_a_warning(tmp_path, data, caplog, lowest, dark):
    """In a standardised scan the background is not 0, which is grey matter there."""
    data += lowest - data.min()
    data[0, 0, :3] = (np.nan, np.inf, -np.inf)
    data[1, 1, 1] = lowest
    volume = read_volume(save(tmp_path / 'a.nii', data))
    np.testing.assert_array_equal(volume.data[0, 0, :3], dark)
    assert volume.n_not_finite == 3
    assert f'{tmp_path / "a.nii"}: 3 voxels are not finite; set to {dark}' in caplog.text


@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
def test_nibabel_itself_is_silent(tmp_path, data, capfd, caplog, kind, name):
    """It has its say about qfac 0, and about NIfTI-2 headers that become NIfTI-1."""
    caplog.set_level(logging.INFO, 'nibabel.global')
    plain = tmp_path / 'plain.nii'
    nib.save(kind(data, AFFINE), plain)
    content = bytearray(plain.read_bytes())
    start, width = (76, 4) if kind is nib.Nifti1Image else (104, 8)
    content[start : start + width] = bytes(width)
    plain.write_bytes(content)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
    volume = read_volume(tmp_path / name)
    write_label_map(tmp_path / 'labels.nii', np.ones(volume.shape, int), volume)
    assert capfd.readouterr() == ('', '')
    assert not caplog.text
    # What others read is theirs to hear of.
    nib.load(tmp_path / name)
    assert 'pixdim[0]' in caplog.text


def test_warns_of_a_guessed_orientation(tmp_path, data, caplog):
    image = nib.Nifti1Image(data, None)
    assert image.header['sform_code'] == image.header['qform_code'] == 0
    nib.save(image, tmp_path / 'a.nii')
    read_volume(tmp_path / 'a.nii')
    assert 'neither sform nor qform' in caplog.text


@pytest.mark.parametrize(('shift_mm', 'warned'), [(0.9, False), (1.1, True)])
def test_warns_of_forms_that_differ(tmp_path, data, caplog, shift_mm, warned):
    # A qform cannot be sheared, as the other affine is.
    image = nib.Nifti1Image(data, np.diag([-0.9, 0.9, 1, 1]))
    image.set_qform(image.affine, code=1)
    image.header['qoffset_y'] += shift_mm
    nib.save(image, tmp_path / 'a.nii')
    read_volume(tmp_path / 'a.nii')
    assert ('sform and qform' in caplog.text) is warned


def test_warns_of_a_qform_that_is_no_rotation(tmp_path, data, caplog):
    image = nib.Nifti1Image(data, AFFINE)
    image.header['quatern_b'], image.header['qform_code'] = 2, 1
    nib.save(image, tmp_path / 'a.nii')
    volume = read_volume(tmp_path / 'a.nii')
    assert 'no rotation' in caplog.text
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_says_nothing_about_a_good_image(tmp_path, data, caplog):
    caplog.set_level(logging.DEBUG)
    read_volume(save(tmp_path / 'a.nii', data))
    assert not caplog.records


def test_refuses_what_is_no_file(tmp_path):
    assert 'does not exist' in refusal(tmp_path / 'a.nii')
    (tmp_path / 'folder.nii').mkdir()
    assert 'is a folder' in refusal(tmp_path / 'folder.nii')
    (tmp_path / 'empty.nii').touch()
    assert 'is empty' in refusal(tmp_path / 'empty.nii')
    (tmp_path / 'a.txt').write_text('hello')
    assert 'not one of .nii' in refusal(tmp_path / 'a.txt')


def test_refuses_content_that_is_not_downloaded(tmp_path):
    (tmp_path / 'link.nii.gz').symlink_to('.git/annex/objects/xx/yy/MD5E-s1--0.nii.gz')
    assert 'datalad get' in refusal(tmp_path / 'link.nii.gz')
    (tmp_path / 'annex.nii.gz').write_text('/annex/objects/MD5E-s123--0123.nii.gz\n')
    assert 'datalad get' in refusal(tmp_path / 'annex.nii.gz')
    (tmp_path / 'lfs.nii').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0')
    assert 'git lfs pull' in refusal(tmp_path / 'lfs.nii')


@pytest.mark.parametrize('kept', [0.05, 0.5, 0.99])
def test_refuses_truncated_gzip(tmp_path, rng, kept):
    path = save(tmp_path / 'a.nii.gz', rng.normal(size=(12, 12, 12)).astype(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert 'truncated: it ends too early' in refusal(path)


def test_refuses_damaged_gzip(tmp_path, rng):
    path = save(tmp_path / 'a.nii.gz', rng.normal(size=(12, 12, 12)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(bytes(content))
    assert 'damaged' in refusal(path)


def test_refuses_a_wrong_checksum(tmp_path, data):
    path = save(tmp_path / 'a.nii.gz', data)
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b'1234' + content[-4:])
    assert 'its checksum is wrong' in refusal(path)


def test_refuses_what_is_not_compressed(tmp_path, data):
    save(tmp_path / 'a.nii', data).rename(tmp_path / 'a.nii.gz')
    assert 'not compressed' in refusal(tmp_path / 'a.nii.gz')


@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
def test_refuses_more_voxels_than_the_file_can_hold(tmp_path, name):
    """The bytes that the header promises are more than any machine has."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header['dim'] = (3, 32000, 32000, 32000, 1, 1, 1, 1)
    header['pixdim'][1:4] = 0.01
    header.set_sform(np.diag([0.01, 0.01, 0.01, 1]), code=1)
    content = header.binaryblock + bytes(2000)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith('gz') else content)
    assert '32000 x 32000 x 32000 voxels do not fit a file' in refusal(tmp_path / name)


def test_refuses_more_voxels_than_memory_holds(tmp_path):
    path = tmp_path / 'a.nii'
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header['dim'] = (3, 1300, 1300, 1300, 1, 1, 1, 1)
    header['magic'] = b'n+1'
    header['vox_offset'] = 352
    header.set_sform(np.diag([0.1, 0.1, 0.1, 1]), code=1)
    path.write_bytes(header.binaryblock + bytes(4))
    # A hole takes no space on the disk.
    os.truncate(path, 352 + 1300**3)
    assert 'do not fit the memory; resample' in refusal(path)


def test_refuses_truncated_nifti(tmp_path, data):
    path = save(tmp_path / 'a.nii', data)
    path.write_bytes(path.read_bytes()[:-20])
    assert 'truncated, or its header is wrong' in refusal(path)


@pytest.mark.parametrize('content', [b'not an image at all', b'\0' * 400])
def test_refuses_other_content(tmp_path, content):
    (tmp_path / 'a.nii').write_bytes(content)
    assert 'no image of the format' in refusal(tmp_path / 'a.nii')
    (tmp_path / 'b.nii.gz').write_bytes(gzip.compress(content))
    assert 'no image of the format' in refusal(tmp_path / 'b.nii.gz')


def test_refuses_other_shapes(tmp_path, rng):
    path = save(tmp_path / 'a.nii', rng.normal(size=(3, 4, 5, 7)).astype(np.float32))
    assert '4D with 7 volumes' in refusal(path)
    path = save(tmp_path / 'b.nii', rng.normal(size=(3, 4)).astype(np.float32))
    assert 'is not 3D' in refusal(path)


def test_refuses_colours_and_complex_numbers(tmp_path):
    rgb = np.zeros((3, 3, 3), dtype=[('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    assert 'RGB' in refusal(save(tmp_path / 'a.nii', rgb))
    assert 'complex64' in refusal(save(tmp_path / 'b.nii', np.ones((3, 3, 3), np.complex64)))


@pytest.mark.parametrize('column', [(0, 0, 0), (0, 0, np.nan), (-0.9, 0, 1e-9)])
def test_refuses_a_singular_affine(tmp_path, data, column):
    image = nib.Nifti1Image(data, np.eye(4))
    for name, values in zip('xyz', AFFINE[:3], strict=True):
        image.header[f'srow_{name}'] = values
    for name, value in zip('xyz', column, strict=True):
        image.header[f'srow_{name}'][1] = value
    for name, value in zip('xyz', (-0.9, 0, 0), strict=True):
        image.header[f'srow_{name}'][0] = value
    affine = image.header.get_sform()
    path = tmp_path / 'a.nii'
    image = nib.Nifti1Image(data, None, image.header)
    image.header['sform_code'] = 1
    nib.save(image, path)
    assert not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-6
    assert 'affine is singular or not finite' in refusal(path)


def test_refuses_a_field_of_view_in_micrometres(tmp_path, data):
    path = save(tmp_path / 'a.nii', data, np.diag([900.0, 900, 900, 1]))
    assert 'must be in mm' in refusal(path)


@pytest.mark.parametrize('value', [0, 7])
def test_refuses_a_constant_image(tmp_path, value):
    path = save(tmp_path / 'a.nii', np.full((4, 4, 4), value, np.float32))
    assert f'every voxel is {value}' in refusal(path)


@pytest.mark.parametrize('dtype', ['u1', 'i2', 'i4', 'f4', 'f8'])
def test_reads_label_maps_of_any_type(tmp_path, dtype):
    labels = np.arange(60).reshape(3, 4, 5)
    volume = read_label_map(save(tmp_path / 'a.nii.gz', labels.astype(dtype)))
    assert volume.data.dtype == np.int32
    np.testing.assert_array_equal(volume.data, labels)


def test_reads_scaled_labels(tmp_path):
    image = nib.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), AFFINE)
    image.header.set_slope_inter(3.0000001, 0)
    nib.save(image, tmp_path / 'a.nii')
    found = read_label_map(tmp_path / 'a.nii').data
    np.testing.assert_array_equal(found, np.arange(27).reshape(3, 3, 3) * 3)


@pytest.mark.parametrize('value', [0.37, np.nan, np.inf, 3e10])
def test_refuses_label_maps_of_other_numbers(tmp_path, value):
    labels = np.zeros((3, 3, 3))
    labels[1, 1, 1] = value
    assert 'not a label map' in refusal(save(tmp_path / 'a.nii', labels), read_label_map)
