"""Read and write volumes; unusable files raise InputImageError.

A :class:`Volume` is always three-dimensional and finite, with an invertible affine. Every error is
one line that names the file, what was found, and what to do.
"""

from __future__ import annotations

import gzip
import logging
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Extensions
from nibabel.spatialimages import HeaderDataError

from ..files import write_whole
from .checks import COMPRESSED, WRITABLE, InputImageError, check_file, check_image, damaged
from .geometry import Grid, spacing_mm
from .header import quiet_nibabel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes
    ----------
    data : (x, y, z) array
        float32 for images, int32 for label maps; finite.
    affine : (4, 4) float64 array
        Maps voxel indices to mm.
    header : nibabel header
        Copy of the file's header.
    path : Path
        File that it was read from.
    n_not_finite : int
        Number of voxels of the file that were not finite.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path
    n_not_finite: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        return self.data.shape  # type: ignore[return-value]

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        return Grid(self.shape, self.affine)

    @property
    def spacing_mm(self) -> np.ndarray:
        """Distance between voxel centres along each axis, in mm."""
        return spacing_mm(self.affine)


def read_volume(path: str | Path) -> Volume:
    """Read an image.

    Voxels that are not finite become 0 or, where there are negative voxels, the lowest value,
    with a warning. Trailing axes of length 1 are dropped.

    Parameters
    ----------
    path : path-like
        ``.nii``, ``.nii.gz``, ``.mgz``, ``.mgh``, or either file of a pair ``.hdr`` and ``.img``.

    Returns
    -------
    Volume
        With float32 data.

    Raises
    ------
    InputImageError
        If the file is missing, damaged, not one 3D volume of real numbers, without a usable
        affine, or constant.
    """
    path = Path(path)
    image = _open(path)
    return _scan(_load(image, path, np.float32), image, path)


def check_header(path: str | Path) -> None:
    """Raise the errors of :func:`read_volume` that show without reading the voxels."""
    _open(Path(path))


def volume_of(image: Any) -> Volume:
    """Make a volume of a nibabel image.

    Parameters
    ----------
    image : nibabel.spatialimages.SpatialImage

    Returns
    -------
    Volume
        See :func:`read_volume`.

    Raises
    ------
    InputImageError
        See :func:`read_volume`.
    """
    path = Path(image.get_filename() or 'image')
    check_image(image, path)
    try:
        data = image.get_fdata(dtype=np.float32, caching='unchanged')
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, error) from error
    return _scan(np.array(data.reshape(image.shape[:3]), order='C'), image, path)


def _scan(data: np.ndarray, image: Any, path: Path) -> Volume:
    """Check the voxels of a scan; set those that are not finite to background."""
    if 1 in data.shape:
        raise InputImageError(f'{path}: a single slice; give one whole volume')
    bad = ~np.isfinite(data)
    if bad.all():
        raise InputImageError(f'{path}: no voxel is finite; export it again')
    if bad.any():
        # In a standardised scan 0 is not background, but about grey matter.
        dark = min(data[~bad].min(), np.float32(0))
        logger.warning('%s: %d voxels are not finite; set to %g', path, int(bad.sum()), dark)
        data[bad] = dark
    if data.min() == data.max():
        raise InputImageError(
            f'{path}: every voxel is {data.flat[0]:g}, so there is nothing to segment; check that '
            'the right file was exported'
        )
    return _volume(data, image, path, n_not_finite=int(bad.sum()))


def read_label_map(path: str | Path) -> Volume:
    """Read a label map with integers stored as any data type.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Volume
        With int32 data.

    Raises
    ------
    InputImageError
        As :func:`read_volume`, except that a constant map is accepted; and if a value is not an
        integer.
    """
    path = Path(path)
    image = _open(path)
    if _holds_small_integers(image):
        return _volume(_load(image, path, np.float32).astype(np.int32), image, path)
    data = _load(image, path, np.float64)
    # Scale factors turn labels into 2.9999998 and the like.
    rounded = np.rint(data)
    with np.errstate(invalid='ignore'):
        wrong = ~(abs(data - rounded) < 1e-3) | (abs(rounded) > np.iinfo(np.int32).max)
    if wrong.any():
        raise InputImageError(
            f'{path}: holds values like {data[wrong][0]:g} and is therefore not a label map; give '
            'a segmentation of integers'
        )
    return _volume(rounded.astype(np.int32), image, path)


def _holds_small_integers(image: Any) -> bool:
    """Return whether the voxels are integers of at most two bytes, which float32 holds exactly."""
    dtype, proxy = image.get_data_dtype(), image.dataobj
    unscaled = (getattr(proxy, 'slope', None), getattr(proxy, 'inter', None)) == (1, 0)
    return bool(dtype.kind in 'iu' and dtype.itemsize <= 2 and unscaled)


def label_image(labels: np.ndarray, like: Volume, dtype: Any = np.int16) -> nib.Nifti1Image:
    """Make an image of labels with the sform, qform, codes and units of another volume.

    Parameters
    ----------
    labels : (x, y, z) integer array
    like : Volume
        Volume of the same shape.
    dtype : NumPy integer type
        Data type of the image.

    Returns
    -------
    nibabel.Nifti1Image

    Raises
    ------
    ValueError
        If the shapes differ, or a label does not fit the type.
    """
    if labels.shape != like.shape:
        raise ValueError(f'{like.path}: labels of shape {labels.shape} on a grid of {like.shape}')
    stored = labels.astype(dtype)
    if not np.array_equal(stored, labels):
        raise ValueError(f'{like.path}: labels do not fit {np.dtype(dtype).name}')
    return _image_like(stored, like)


def write_label_map(
    path: str | Path, labels: np.ndarray, like: Volume, dtype: Any = np.int16
) -> None:
    """Write labels on the grid of another volume.

    The file appears under its name only once it is complete.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``.
    labels, like, dtype
        See :func:`label_image`.

    Raises
    ------
    ValueError
        See :func:`label_image`, and for other file endings.
    """
    _save(path, label_image(labels, like, dtype))


def write_image(path: str | Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write an array as NIfTI in scanner space, in mm.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``.
    data : (x, y, z) array
        Its type is kept; 64-bit and 16-bit floats become float32, 64-bit integers int32,
        booleans uint8.
    affine : (4, 4) array
    """
    kept = {'float64': 'f4', 'float16': 'f4', 'int64': 'i4', 'uint64': 'i4', 'bool': 'u1'}
    data = data.astype(kept.get(data.dtype.name, data.dtype), copy=False)
    image = nib.Nifti1Image(data, affine)
    _set_forms(image.header, affine)
    image.header.set_xyzt_units('mm', 'sec')
    _save(path, image)


def _set_forms(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    """Write an affine as both forms; only as sform if it has shears."""
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    if not np.allclose(header.get_qform(), affine, atol=1e-3):
        header.set_qform(None, code=0)


#: Step of posteriors: the float32 below 1/255, so that bytes with a sum of 255 do not exceed 1.
_BYTE = np.nextafter(np.float32(1 / 255), np.float32(0))


def posteriors_image(
    posteriors: np.ndarray, affine: np.ndarray, like: Volume | None = None
) -> nib.Nifti1Image:
    """Make an image of posterior probabilities: bytes with a scale factor of 1/255.

    Parameters
    ----------
    posteriors : (channel, x, y, z) array, or (x, y, z) array of uint8
        Probabilities, or uint8 that are already multiplied by 255.
    affine : (4, 4) array
        Used without `like`.
    like : Volume, optional
        Volume whose sform, qform and codes to keep.

    Returns
    -------
    nibabel.Nifti1Image
    """
    if posteriors.dtype != np.uint8:
        scaled = np.empty(posteriors.shape, dtype=np.uint8)
        for channel, posterior in enumerate(posteriors):
            scaled[channel] = np.rint(np.clip(posterior, 0, 1).astype(np.float32) * 255)
        posteriors = scaled
    data = np.moveaxis(posteriors, 0, -1) if posteriors.ndim == 4 else posteriors
    if like is None:
        image = nib.Nifti1Image(data, affine)
        _set_forms(image.header, affine)
    else:
        image = _image_like(data, like)
    image.header.set_xyzt_units('mm', 'sec')
    image.header.set_slope_inter(_BYTE, 0)
    return image


def write_posteriors(
    path: str | Path, posteriors: np.ndarray, affine: np.ndarray, like: Volume | None = None
) -> None:
    """Write posterior probabilities.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``.
    posteriors, affine, like
        See :func:`posteriors_image`.
    """
    _save(path, posteriors_image(posteriors, affine, like))


def write_maps(path: str | Path, maps: np.ndarray, like: Volume) -> None:
    """Write several maps as the volumes of one image on the grid of another volume.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``.
    maps : (volume, x, y, z) array
        Its type is kept.
    like : Volume
    """
    image = _image_like(np.moveaxis(maps, 0, -1), like)
    image.header.set_xyzt_units('mm', 'sec')
    _save(path, image)


def _open(path: Path) -> Any:
    """Open an image and check its header."""
    check_file(path)
    try:
        # nibabel's repairs are checked by check_image.
        with warnings.catch_warnings(), quiet_nibabel():
            warnings.simplefilter('ignore')
            image: Any = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, error) from error
    check_image(image, path)
    return image


def _load(image: Any, path: Path, dtype: Any) -> np.ndarray:
    """Read the voxels as a contiguous (x, y, z) array."""
    try:
        with np.errstate(over='ignore', invalid='ignore'), quiet_nibabel():
            if path.name.lower().endswith(COMPRESSED):
                # Read to the end, where the checksum is: nibabel stops at the last voxel.
                with gzip.open(path) as stream:
                    data = type(image).from_stream(stream).get_fdata(dtype=dtype)
                    while stream.read(1 << 20):
                        pass
            else:
                data = image.get_fdata(dtype=dtype, caching='unchanged')
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, error) from error
    # Copied, since an uncompressed file may be mapped read-only.
    return np.array(data.reshape(image.shape[:3]), order='C')


def _volume(data: np.ndarray, image: Any, path: Path, n_not_finite: int = 0) -> Volume:
    affine = np.array(image.affine, dtype=np.float64)
    return Volume(data, affine, image.header.copy(), path, n_not_finite)


def _image_like(data: np.ndarray, like: Volume) -> nib.Nifti1Image:
    """Make a NIfTI image on the grid of a volume, without its descriptive fields."""
    if not isinstance(like.header, nib.Nifti1Header):
        header = nib.Nifti1Header()
        _set_forms(header, like.affine)
        header.set_xyzt_units('mm', 'sec')
    else:
        header = like.header.copy()
        header.extensions = Nifti1Extensions()
        header['descrip'] = header['aux_file'] = header['intent_name'] = b''
        header['cal_min'] = header['cal_max'] = header['intent_code'] = 0
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(None, None)
    # Without an affine nibabel keeps the header's sform and qform.
    with quiet_nibabel():
        return nib.Nifti1Image(data, None, header)


def _save(path: str | Path, image: Any) -> None:
    """Write under a temporary name in the same folder, then rename."""
    path = Path(path)
    if not path.name.endswith(WRITABLE):
        raise ValueError(f'{path}: cannot be written; give a name that ends in .nii.gz or .nii')
    write_whole(path, lambda temporary: nib.save(image, temporary))
