"""Refuse files that hold no usable scan, and warn of ambiguous geometry.

Every error is one line that names the file, what was found, and what to do.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import InputImageError
from .geometry import largest_distance_mm, spacing_mm

logger = logging.getLogger(__name__)

READABLE = ('.nii', '.nii.gz', '.mgz', '.mgh', '.img', '.hdr')
WRITABLE = ('.nii', '.nii.gz')
COMPRESSED = ('.gz', '.mgz')
#: Header and voxels of one image in two files.
PAIR = ('.hdr', '.img')

#: If the longest side is not between these, the header's unit is not mm.
MIN_FIELD_OF_VIEW_MM = 1.0
MAX_FIELD_OF_VIEW_MM = 2000.0
#: More voxels take over 8 GB as float32.
MAX_VOXELS = 2**31
#: Distance between sform and qform above which there is a warning.
MAX_CONFLICT_MM = 1.0

_AGAIN = 'export or download it again'
# Largest compression ratio of deflate.
_MAX_COMPRESSION = 1032


def check_output(path: Path) -> None:
    """Refuse a name of an output that no image can be written under.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
    """
    if not path.name[1:].endswith(WRITABLE):
        raise ValueError(f'{path}: give a name, and .nii.gz or .nii as its end')


def check_file(path: Path) -> None:
    """Refuse what is not an image file with content; the message gives the likely reason.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputImageError
    """
    if path.is_symlink() and not path.exists():
        raise InputImageError(
            f'{path}: a link to a file that is not there (content not downloaded?); run '
            '"datalad get" on it or repair the link'
        )
    if not path.is_file():
        found = 'is a folder' if path.is_dir() else 'does not exist'
        raise InputImageError(f'{path}: {found}; give an image file')
    name = path.name.lower()
    if not name.endswith(READABLE):
        raise InputImageError(f'{path}: not one of {", ".join(READABLE)}; convert it to NIfTI')
    try:
        with path.open('rb') as stream:
            start = stream.read(64)
    except OSError as error:
        raise InputImageError(
            f'{path}: cannot be read ({error.strerror}); change its permissions'
        ) from error
    if not start:
        raise InputImageError(f'{path}: the file is empty; {_AGAIN}')
    if start.startswith((b'/annex/objects/', b'version https://git-lfs')):
        raise InputImageError(
            f'{path}: a pointer to content that is not downloaded; run "datalad get" or '
            '"git lfs pull"'
        )
    if name.endswith(COMPRESSED) and not start.startswith(b'\x1f\x8b'):
        raise InputImageError(
            f'{path}: not compressed, although its name ends in {path.suffix}; rename it if it '
            f'is an image, otherwise {_AGAIN}'
        )
    for ending in PAIR:
        if not _member(path, ending).is_file():
            raise InputImageError(
                f'{path}: {_member(path, ending).name} is not beside it; an image of this format '
                'is both files'
            )


def _member(path: Path, ending: str) -> Path:
    """Return the file of a pair that has this ending; other images are one file."""
    if path.suffix.lower() not in PAIR:
        return path
    return path.with_suffix(ending.upper() if path.suffix.isupper() else ending)


def damaged(path: Path, error: Exception) -> InputImageError:
    """Explain in plain words why a file cannot be read.

    Parameters
    ----------
    path : Path
    error : Exception
        Exception of the reader.

    Returns
    -------
    InputImageError
    """
    if 'Cannot work out file type' in str(error):
        # nibabel's message also if the first bytes cannot be decompressed.
        error = _decompression_error(path) or error
    text = ' '.join(str(error).split()) or type(error).__name__
    if 'CRC check' in text or 'Incorrect length' in text:
        reason = 'damaged: its checksum is wrong'
    elif isinstance(error, zlib.error | gzip.BadGzipFile):
        reason = 'damaged: it cannot be decompressed'
    elif isinstance(error, EOFError) or 'Expected' in text or 'mmap length' in text:
        reason = 'truncated: it ends too early'
    elif 'Cannot work out file type' in text:
        reason = 'no image of the format that its name promises'
    else:
        reason = f'cannot be read ({text[:120]})'
    return InputImageError(f'{path}: {reason}; {_AGAIN}')


def _decompression_error(path: Path) -> Exception | None:
    """Return the exception of decompressing the first bytes of a compressed file."""
    if path.name.lower().endswith(COMPRESSED):
        try:
            with gzip.open(path) as stream:
                stream.read(1 << 20)
        except (OSError, EOFError, zlib.error) as error:
            return error
    return None


def check_image(image: Any, path: Path) -> None:
    """Check the header; no voxel is read.

    Parameters
    ----------
    image : nibabel image
    path : Path

    Raises
    ------
    InputImageError
        If the image is not one 3D volume of real numbers with a usable affine, or its file is
        too small for the header.
    """
    _check_voxels(image, path)
    _check_size(image, path)
    affine = image.affine
    if affine is None or not np.isfinite(affine).all() or _is_singular(affine):
        raise InputImageError(
            f'{path}: the affine is singular or not finite, so the image has no place in space; '
            'repair sform and qform in its header'
        )
    size = spacing_mm(affine) * image.shape[:3]
    if not MIN_FIELD_OF_VIEW_MM < size.max() < MAX_FIELD_OF_VIEW_MM:
        sides = ' x '.join(f'{side:g}' for side in size.round(2))
        raise InputImageError(
            f'{path}: field of view of {sides} mm; repair the '
            'voxel size in its header (it must be in mm)'
        )
    if isinstance(image.header, nib.Nifti1Header):
        _check_forms(image, path)
    elif path.suffix.lower() in PAIR:
        logger.warning(
            '%s: Analyze, which does not say how the image lies in space; left and right are a '
            'guess (first axis to the left)',
            path,
        )


def _check_voxels(image: Any, path: Path) -> None:
    """Refuse shapes other than 3D and voxels other than real numbers."""
    kind = image.header.get_data_dtype()
    if kind.fields or kind.kind not in 'iuf':
        raise InputImageError(
            f'{path}: voxels of type {"RGB" if kind.fields else kind.name}; convert the image to '
            'one real number per voxel'
        )
    shape = image.shape
    extra = [n for n in shape[3:] if n != 1]
    if len(shape) < 3 or min(shape) < 1:
        raise InputImageError(f'{path}: shape {shape} is not 3D; give one whole volume')
    if extra:
        raise InputImageError(
            f'{path}: 4D with {int(np.prod(extra))} volumes; extract one of them or their mean'
        )


def _check_size(image: Any, path: Path) -> None:
    """Refuse, before memory is allocated, images larger than their file or than any memory."""
    n_voxels = int(np.prod(image.shape, dtype=object))
    shape = ' x '.join(map(str, image.shape[:3]))
    if nib.is_proxy(image.dataobj):  # else its voxels are in memory already
        promised = image.dataobj.offset + n_voxels * image.header.get_data_dtype().itemsize
        on_disk = _member(path, '.img').stat().st_size
        possible = on_disk * (_MAX_COMPRESSION if path.name.lower().endswith(COMPRESSED) else 1)
        if promised > possible:
            raise InputImageError(
                f'{path}: truncated, or its header is wrong: {shape} voxels do not fit a file of '
                f'{on_disk} bytes; {_AGAIN}'
            )
    if n_voxels > MAX_VOXELS:
        raise InputImageError(
            f'{path}: {shape} voxels do not fit the memory; resample it to 0.5 mm or more'
        )


def _check_forms(image: Any, path: Path) -> None:
    """Warn if the orientation of a NIfTI image is missing or ambiguous."""
    header, shape = image.header, image.shape[:3]
    if header['sform_code'] and header['qform_code']:
        try:
            apart = largest_distance_mm(header.get_sform(), header.get_qform(), shape)
        except ValueError:
            logger.warning('%s: the qform is no rotation; the sform is used', path)
            return
        if apart > MAX_CONFLICT_MM:
            logger.warning(
                '%s: sform and qform place it up to %.0f mm apart; the sform is used', path, apart
            )
    elif not header['sform_code']:
        if nib.is_proxy(image.dataobj):
            opener = gzip.open if path.name.lower().endswith('.gz') else open
            with opener(_member(path, '.hdr'), 'rb') as stream:
                raw = type(header).from_fileobj(stream, check=False)
            # nibabel replaces them by 1 mm.
            if (raw['pixdim'][1:4] == 0).any():
                raise InputImageError(f'{path}: voxel size 0; repair it in the header')
        if not header['qform_code']:
            logger.warning(
                '%s: neither sform nor qform is set; left and right are a guess (first axis to '
                'the left)',
                path,
            )


def _is_singular(affine: np.ndarray) -> bool:
    spacing = spacing_mm(affine)
    return bool((spacing < 1e-6).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3)
