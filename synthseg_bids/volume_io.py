"""Read and write volumes: the door at which bad images are turned away.

Everything behind this module may rely on a :class:`Volume` being three-dimensional, finite and
placed in space by an invertible affine. Every refusal is one line that names the file, what was
found, and what to do.
"""

from __future__ import annotations

import gzip
import logging
import os
import uuid
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

from .geometry import spacing_mm

logger = logging.getLogger(__name__)

READABLE = ('.nii', '.nii.gz', '.mgz', '.mgh')
WRITABLE = ('.nii', '.nii.gz')

#: A longer side than this means that the header's unit is not mm.
MAX_FIELD_OF_VIEW_MM = 2000.0


class InputImageError(ValueError):
    """An image file cannot be used; the message is one line."""


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes
    ----------
    data : (x, y, z) array
        float32 for images, int32 for label maps; finite.
    affine : (4, 4) float64 array
        From voxel indices to mm.
    header : nibabel header
        A copy of the file's.
    path : Path
        Where it was read from.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        return self.data.shape  # type: ignore[return-value]

    @property
    def spacing_mm(self) -> np.ndarray:
        """Distance between voxel centres along each axis, in mm."""
        return spacing_mm(self.affine)


def read_volume(path: str | Path) -> Volume:
    """Read an image.

    Voxels that are not finite become 0, with a warning. Trailing axes of length 1 are dropped.

    Parameters
    ----------
    path : path-like
        ``.nii``, ``.nii.gz``, ``.mgz`` or ``.mgh``.

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
    data = _load(image, path, np.float32)
    bad = ~np.isfinite(data)
    if bad.any():
        logger.warning('%s: %d voxels are not finite; set to 0', path, int(bad.sum()))
        data[bad] = 0
    if data.min() == data.max():
        raise InputImageError(
            f'{path}: every voxel is {data.flat[0]:g}, so there is nothing to segment; check that '
            'the right file was exported'
        )
    return Volume(data, np.array(image.affine, dtype=np.float64), image.header.copy(), path)


def read_label_map(path: str | Path) -> Volume:
    """Read a label map, whatever type its integers are stored as.

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
        As :func:`read_volume` does (a constant map is accepted), and if a value is not an integer.
    """
    path = Path(path)
    image = _open(path)
    data = _load(image, path, np.float64)
    # Labels that went through a scale factor come back as 2.9999998.
    rounded = np.rint(data)
    with np.errstate(invalid='ignore'):
        wrong = ~(abs(data - rounded) < 1e-3) | (abs(rounded) > np.iinfo(np.int32).max)
    if wrong.any():
        raise InputImageError(
            f'{path}: holds values like {data[wrong][0]:g} and is therefore not a label map; give '
            'a segmentation of integers'
        )
    labels = rounded.astype(np.int32)
    return Volume(labels, np.array(image.affine, dtype=np.float64), image.header.copy(), path)


def write_label_map(
    path: str | Path, labels: np.ndarray, like: Volume, dtype: Any = np.int16
) -> None:
    """Write labels on the grid of another volume, with its sform, qform, codes and units.

    The file appears under its name only once it is complete.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``.
    labels : (x, y, z) integer array
    like : Volume
        Same shape.
    dtype : NumPy integer type
        Of the file.

    Raises
    ------
    ValueError
        If the shapes differ, a label does not fit the type, or the name ends otherwise.
    """
    if labels.shape != like.shape:
        raise ValueError(f'{path}: labels of shape {labels.shape} on a grid of {like.shape}')
    stored = labels.astype(dtype)
    if not np.array_equal(stored, labels):
        raise ValueError(f'{path}: labels do not fit {np.dtype(dtype).name}')
    _save(path, nib.Nifti1Image(stored, *_affine_and_header(like, stored.dtype)))


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
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units('mm', 'sec')
    _save(path, image)


def write_posteriors(
    path: str | Path, posteriors: np.ndarray, affine: np.ndarray, like: Volume | None = None
) -> None:
    """Write posterior probabilities as a 4D file of bytes, with a scale factor of 1/255.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``.
    posteriors : (channel, x, y, z) array
        Probabilities, or uint8 that are already multiplied by 255.
    affine : (4, 4) array
        Used where `like` is not given.
    like : Volume, optional
        Whose sform, qform and codes to keep.
    """
    if posteriors.dtype != np.uint8:
        scaled = np.empty(posteriors.shape, dtype=np.uint8)
        for channel, posterior in enumerate(posteriors):
            scaled[channel] = np.rint(np.clip(posterior, 0, 1).astype(np.float32) * 255)
        posteriors = scaled
    data = np.moveaxis(posteriors, 0, -1)
    if like is None:
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
    else:
        image = nib.Nifti1Image(data, *_affine_and_header(like, data.dtype))
    image.header.set_xyzt_units('mm', 'sec')
    image.header.set_slope_inter(1 / 255, 0)
    _save(path, image)


def _open(path: Path) -> Any:
    """Open an image and check everything that its header tells."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image: Any = nib.load(path)
            affine = image.affine
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, error) from error
    kind = image.header.get_data_dtype()
    if kind.fields or kind.kind not in 'iuf':
        raise InputImageError(
            f'{path}: voxels of type {"RGB" if kind.fields else kind.name}; convert the image to '
            'one real number per voxel'
        )
    spatial = image.shape[:3]
    extra = [n for n in image.shape[3:] if n != 1]
    if len(spatial) < 3 or 0 in image.shape:
        raise InputImageError(f'{path}: shape {image.shape} is not 3D; give one whole volume')
    if extra:
        raise InputImageError(
            f'{path}: 4D with {int(np.prod(extra))} volumes; extract one of them or their mean'
        )
    if affine is None or not np.isfinite(affine).all() or _is_singular(affine):
        raise InputImageError(
            f'{path}: the affine is singular or not finite, so the image has no place in space; '
            'repair sform and qform in its header'
        )
    size = spacing_mm(affine) * spatial
    if size.max() > MAX_FIELD_OF_VIEW_MM:
        raise InputImageError(
            f'{path}: field of view of {" x ".join(f"{s:.0f}" for s in size)} mm; repair the '
            'voxel size in its header (it must be in mm)'
        )
    header = image.header
    if isinstance(header, nib.Nifti1Header) and not (header['sform_code'] or header['qform_code']):
        logger.warning(
            '%s: neither sform nor qform is set; left and right are a guess (first axis to the '
            'left)',
            path,
        )
    return image


def _check_file(path: Path) -> None:
    """Refuse what is not a file with content, and name the usual reasons."""
    if path.is_symlink() and not path.exists():
        raise InputImageError(
            f'{path}: a link to a file that is not there (content not downloaded?); run '
            '"datalad get" on it or repair the link'
        )
    if not path.is_file():
        found = 'is a folder' if path.is_dir() else 'does not exist'
        raise InputImageError(f'{path}: {found}; give an image file')
    if not path.name.lower().endswith(READABLE):
        raise InputImageError(f'{path}: not one of {", ".join(READABLE)}; convert it to NIfTI')
    try:
        with path.open('rb') as stream:
            start = stream.read(64)
    except OSError as error:
        raise InputImageError(f'{path}: cannot be opened ({error.strerror})') from error
    if not start:
        raise InputImageError(f'{path}: the file is empty; export or download it again')
    if start.startswith((b'/annex/objects/', b'version https://git-lfs')):
        raise InputImageError(
            f'{path}: a pointer to content that is not downloaded; run "datalad get" or '
            '"git lfs pull"'
        )


def _is_singular(affine: np.ndarray) -> bool:
    spacing = spacing_mm(affine)
    return bool((spacing < 1e-6).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3)


def _load(image: Any, path: Path, dtype: Any) -> np.ndarray:
    """Read the voxels as a contiguous (x, y, z) array."""
    try:
        with np.errstate(over='ignore', invalid='ignore'):
            if path.name.lower().endswith(('.gz', '.mgz')):
                # Read on to the end, where the checksum is: nibabel stops at the last voxel.
                with gzip.open(path) as stream:
                    data = type(image).from_stream(stream).get_fdata(dtype=dtype)
                    while stream.read(1 << 20):
                        pass
            else:
                data = image.get_fdata(dtype=dtype, caching='unchanged')
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, error) from error
    # A copy, since an uncompressed file may be mapped read-only.
    return np.array(data.reshape(image.shape[:3]), order='C')


def _damaged(path: Path, error: Exception) -> InputImageError:
    reason = ' '.join(str(error).split()) or type(error).__name__
    return InputImageError(
        f'{path}: cannot be read, probably damaged or truncated ({reason[:120]}); export or '
        'download it again'
    )


def _affine_and_header(like: Volume, dtype: np.dtype) -> tuple[np.ndarray | None, Any]:
    """Return what makes a NIfTI image share the grid of a volume, with nothing of its content."""
    if not isinstance(like.header, nib.Nifti1Header):
        header = nib.Nifti1Header()
        header.set_sform(like.affine, code=1)
        header.set_qform(like.affine, code=1)
        header.set_xyzt_units('mm', 'sec')
    else:
        header = like.header.copy()
        header.extensions = Nifti1Extensions()
        header['descrip'] = header['aux_file'] = header['intent_name'] = b''
        header['cal_min'] = header['cal_max'] = header['intent_code'] = 0
    header.set_data_dtype(dtype)
    header.set_slope_inter(None, None)
    # Without an affine nibabel leaves sform and qform as they are in the header.
    return None, header


def _save(path: str | Path, image: Any) -> None:
    """Write under a temporary name in the same folder, then rename."""
    path = Path(path)
    ending = next((e for e in reversed(WRITABLE) if path.name.endswith(e)), None)
    if ending is None:
        raise ValueError(f'{path}: cannot be written; give a name that ends in .nii.gz or .nii')
    temporary = path.with_name(f'.{uuid.uuid4().hex}{ending}')
    try:
        nib.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
