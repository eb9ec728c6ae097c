"""Transforms are written in the text format of ITK."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.images.transform_file import (
    TransformFileError,
    read_transform,
    write_transform,
)

TURN = np.array([[0.0, -1, 0, 3], [1, 0, 0, -7.25], [0, 0, 1, 1.5], [0, 0, 0, 1]])


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / 'from-T1w_to-FLAIR_mode-image_xfm.txt'
    write_transform(path, TURN)
    np.testing.assert_array_equal(read_transform(path), TURN)


def test_itk_counts_to_the_left_and_to_the_back(tmp_path):
    path = tmp_path / 'xfm.txt'
    write_transform(path, TURN)
    lines = dict(line.split(': ') for line in path.read_text().splitlines()[2:])
    assert lines['FixedParameters'] == '0 0 0'
    numbers = [float(word) for word in lines['Parameters'].split()]
    assert numbers == [0, -1, 0, 1, 0, 0, 0, 0, 1, -3, 7.25, 1.5]


def test_nitransforms_reads_it(tmp_path):
    linear = pytest.importorskip('nitransforms.linear')
    path = tmp_path / 'xfm.txt'
    write_transform(path, TURN)
    np.testing.assert_allclose(linear.load(path, fmt='itk').matrix, TURN, atol=1e-9)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / 'xfm.txt'
    path.write_text('Transform: AffineTransform_double_3_3\nParameters: 1 2\n')
    with pytest.raises(TransformFileError, match=r'xfm\.txt: not an affine'):
        read_transform(path)
