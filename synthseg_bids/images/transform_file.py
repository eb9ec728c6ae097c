"""Rigid and affine transforms in the text format of ITK, which ANTs and nitransforms read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files import read_text, write_text

#: ITK's x and y run to the left and to the back, those of NIfTI to the right and to the front.
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class TransformFileError(ValueError):
    """A file holds no affine transform of ITK; the message is one line."""


def write_transform(path: Path, matrix: np.ndarray) -> None:
    """Write a transform that resamples one image on the grid of another.

    Parameters
    ----------
    path : Path
        Named ``from-A_to-B_mode-image_xfm.txt`` if it brings images of space A to space B.
    matrix : (4, 4) array
        Maps positions in space B to positions in space A, both in mm (RAS+): where resampling
        looks up the intensity of a voxel of B.
    """
    lps = _TO_LPS @ matrix @ _TO_LPS
    numbers = ' '.join(repr(float(value)) for value in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    write_text(
        path,
        '#Insight Transform File V1.0\n#Transform 0\n'
        'Transform: AffineTransform_double_3_3\n'
        f'Parameters: {numbers}\nFixedParameters: 0 0 0\n',
    )


def read_transform(path: Path) -> np.ndarray:
    """Read what :func:`write_transform` has written.

    Parameters
    ----------
    path : Path

    Returns
    -------
    (4, 4) float array
        In mm (RAS+).

    Raises
    ------
    TransformFileError
        If it is not a text file of ITK with one affine transform.
    """
    fields = dict(
        line.split(':', 1) for line in read_text(path).splitlines() if not line.startswith('#')
    )
    try:
        numbers = [float(word) for word in fields['Parameters'].split()]
        centre = np.array([float(word) for word in fields['FixedParameters'].split()])
        lps = np.eye(4)
        lps[:3, :3] = np.reshape(numbers[:9], (3, 3))
        lps[:3, 3] = numbers[9:] + centre - lps[:3, :3] @ centre
    except (KeyError, ValueError) as error:
        raise TransformFileError(
            f'{path}: not an affine transform of ITK ({error}); write it again'
        ) from error
    return _TO_LPS @ lps @ _TO_LPS
