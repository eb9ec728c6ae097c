"""Everything that can be wrong with what the app is given, and what the user then sees.

One table, two users: ``test_bad_input.py`` runs it, and this file, run as a script, writes it to
``docs/errors.rst`` with the lines that were really printed. Bad images share one data set and one
run, which also has to segment the good ones among them.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([-8.0, 8, 9, 1])
FAR_AWAY = np.array([[1, 0, 0, 999], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SHAPE = (10, 11, 12)
RGB = [(colour, 'u1') for colour in 'RGB']
#: A folder name that breaks whatever is not quoted, escaped or encoded.
AWKWARD = 'my "raw" <b>d\'été> $HOME & 脑'


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Return an image without a brain."""
    return np.random.default_rng(seed).random(shape).astype('f4')


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = AFFINE) -> nib.Nifti1Image:
    """Write an image and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, path)
    return image


def patched(**fields: object) -> Callable[[Path], None]:
    """Write a good image, then change fields of its header behind nibabel's back."""

    def make(path: Path) -> None:
        save(path, noise())
        content = bytearray(gzip.decompress(path.read_bytes()))
        header = np.frombuffer(content, nib.nifti1.header_dtype, 1)[0]
        for name, value in fields.items():
            header[name] = value
        path.write_bytes(gzip.compress(bytes(content), mtime=0))

    return make


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write a good image, then change the bytes of its file."""

    def make(path: Path) -> None:
        save(path, noise())
        path.write_bytes(change(path.read_bytes()))

    return make


def _nan(path: Path) -> None:
    data = noise()
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    save(path, data)


def _conflict(path: Path) -> None:
    image = save(path, noise())
    image.set_qform(AFFINE @ np.diag([1, 1, -1, 1]), code=1)
    nib.save(image, path)


def _unreadable(path: Path) -> None:
    save(path, noise())
    path.chmod(0)


def _closed_folder(path: Path) -> None:
    save(path / 'sub-closed_T1w.nii.gz', noise())
    path.chmod(0)


def _link(path: Path) -> None:
    path.symlink_to('../../.git/annex/objects/xx/MD5E-s1--0.nii.gz')


@dataclass(frozen=True)
class BadImage:
    """One image of the data set.

    Attributes
    ----------
    what : str
        What is wrong with it.
    make : function of a path
        Writes it.
    status : str
        In ``group_status.tsv``.
    says : str
        Part of the line on the terminal, and of the reason in ``group_status.tsv``.
    relative : str
        Where it is in the data set, if that matters.
    """

    what: str
    make: Callable[[Path], object]
    status: str
    says: str
    relative: str = ''

    @property
    def name(self) -> str:
        """Path relative to the data set."""
        label = re.sub('[^a-zA-Z0-9]', '', self.what.title())
        return self.relative or f'sub-bad/anat/sub-bad_acq-{label}_T1w.nii.gz'

    @property
    def shown(self) -> str:
        """The same on the terminal."""
        return self.name.encode(errors='backslashreplace').decode()


IMAGES = (
    BadImage('zero bytes', lambda path: path.touch(), 'failed', 'the file is empty'),
    BadImage('truncated gzip', damaged(lambda c: c[:-2000]), 'failed', 'ends too early'),
    BadImage(
        'bad checksum', damaged(lambda c: c[:-8] + b'1234' + c[-4:]), 'failed', 'its checksum'
    ),
    BadImage(
        'damaged in the middle',
        damaged(lambda c: c[:1000] + bytes(500) + c[1500:]),
        'failed',
        'damaged',
    ),
    BadImage(
        'no gzip', lambda path: path.write_bytes(b'\xff\xd8\xff JFIF'), 'failed', 'not compressed'
    ),
    BadImage(
        'wrong magic',
        lambda path: path.write_bytes(gzip.compress(b'DICM' * 500, mtime=0)),
        'failed',
        'no image of the format',
    ),
    BadImage('a folder', lambda path: path.mkdir(), 'failed', 'is a folder'),
    BadImage('no permission to read', _unreadable, 'failed', 'Permission denied'),
    BadImage(
        'a folder without permission',
        _closed_folder,
        'failed',
        'Permission denied',
        relative='sub-closed/anat',
    ),
    BadImage('link to content that is not there', _link, 'failed', 'datalad get'),
    BadImage(
        'pointer to content that is not there',
        lambda path: path.write_text('/annex/objects/MD5E-s123--0123.nii.gz\n'),
        'failed',
        'datalad get',
    ),
    BadImage('NaN and infinite voxels', _nan, 'done', '3 voxels are not finite'),
    BadImage(
        'only NaN', lambda path: save(path, noise() * np.nan), 'failed', 'no voxel is finite'
    ),
    BadImage(
        'one voxel that is not 0',
        lambda path: save(path, np.eye(1, 50**3, 62000, dtype='f4').reshape(50, 50, 50)),
        'failed',
        '99 % of its voxels have the value 0',
    ),
    BadImage(
        'voxel size in metres',
        lambda path: save(path, noise(), AFFINE @ np.diag([1e-3, 1e-3, 1e-3, 1])),
        'failed',
        'repair the voxel size',
    ),
    BadImage('constant', lambda path: save(path, noise() * 0 + 7), 'failed', 'every voxel is 7'),
    BadImage('2D', lambda path: save(path, noise(SHAPE[:2])), 'failed', 'is not 3D'),
    BadImage('single slice', lambda path: save(path, noise((10, 11, 1))), 'failed', 'slice'),
    BadImage('4D', lambda path: save(path, noise((4, 4, 4, 2))), 'skipped', '2 volumes'),
    BadImage('RGB', lambda path: save(path, np.zeros(SHAPE, RGB)), 'failed', 'RGB'),
    BadImage('complex', lambda path: save(path, noise().astype('c8')), 'failed', 'complex64'),
    BadImage('singular affine', patched(srow_y=(-8, 0, 0, 0)), 'failed', 'affine is singular'),
    BadImage('zero affine', patched(srow_x=0, srow_y=0, srow_z=0), 'failed', 'affine is singular'),
    BadImage('NaN affine', patched(srow_x=np.nan), 'failed', 'not finite'),
    BadImage('sform and qform differ', _conflict, 'done', 'sform and qform lie'),
    BadImage('no sform and no qform', patched(sform_code=0, qform_code=0), 'done', 'is a guess'),
    BadImage(
        'voxel size 0',
        patched(sform_code=0, qform_code=1, pixdim=(1, 0, 0, 0, 0, 0, 0, 0)),
        'failed',
        'voxel size 0',
    ),
    BadImage(
        'voxel size in micrometres',
        lambda path: save(path, noise(), np.diag([1000, 1000, 1000, 1])),
        'failed',
        'in mm',
    ),
    BadImage(
        'header of 2000 x 2000 x 2000 voxels',
        patched(dim=(3, 2000, 2000, 2000, 1, 1, 1, 1), srow_x=(0.1, 0, 0, 0)),
        'failed',
        '2000 x 2000 x 2000 voxels do not fit a file of',
    ),
    BadImage(
        'no brain, but noise', lambda path: save(path, noise()), 'done', 'ml of brain (adults'
    ),
    BadImage(
        'a name that is not BIDS',
        lambda path: save(path, noise()),
        'skipped',
        'not a BIDS file name',
        relative='sub-bad/anat/my "scan" <b>d\'été>.nii.gz',
    ),
    BadImage(
        'a name that is not UTF-8',
        lambda path: path.touch(),
        'skipped',
        'not a BIDS file name',
        relative=os.fsdecode(b'sub-bad/anat/\xe9t\xe9.nii.gz'),
    ),
)
GOOD = ('sub-01/anat/sub-01_T1w.nii.gz', 'sub-01/anat/sub-01_FLAIR.nii')


@dataclass(frozen=True)
class BadReference:
    """A reference segmentation of the first good image, in a data set of its own.

    Attributes
    ----------
    dataset : str
        Its name.
    what : str
    make : function of a path
        Writes it.
    says : str
        Part of the note in ``group_status.tsv``; empty if it can be used.
    """

    dataset: str
    what: str
    make: Callable[[Path], object]
    says: str


def _labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, 'i2')
    labels[: shape[0] // 2], labels[shape[0] // 2 :] = 2, 41
    return labels


REFERENCES = (
    BadReference(
        'other',
        'reference of another size',
        lambda path: save(path, _labels((20, 22, 24)), AFFINE @ np.diag([0.5, 0.5, 0.5, 1])),
        '',
    ),
    BadReference(
        'torn',
        'damaged reference',
        lambda path: (save(path, _labels()), path.write_bytes(path.read_bytes()[:-9])),
        'ends too early',
    ),
    BadReference(
        'far',
        'reference of another place',
        lambda path: save(path, _labels(), FAR_AWAY @ AFFINE),
        'lies in the field of view',
    ),
    BadReference(
        'scan', 'a scan as reference', lambda path: save(path, noise()), 'not a label map'
    ),
    BadReference(
        'gif', 'reference of another scheme', lambda path: save(path, _labels() + 130), 'labels'
    ),
)
