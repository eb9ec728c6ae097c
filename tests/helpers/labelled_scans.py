"""A small BIDS dataset of heads of boxes with references, for the tests of training on scans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

AIR, FAT = 0, 200
#: FreeSurfer labels and the boxes that they fill; later ones lie in earlier ones.
BOXES = {
    1017: np.s_[6:16, 7:25, 7:25],
    2017: np.s_[16:26, 7:25, 7:25],
    2: np.s_[8:16, 9:23, 9:23],
    41: np.s_[16:24, 9:23, 9:23],
    4: np.s_[12:16, 12:20, 12:20],
    43: np.s_[16:20, 12:20, 12:20],
    31: np.s_[13:15, 13:19, 13:19],
}
#: Intensity of each label, from black to FAT.
T1W = {1017: 120, 2017: 120, 2: 160, 41: 160, 4: 40, 43: 40, 31: 80}
T2W = {1017: 120, 2017: 120, 2: 80, 41: 80, 4: 180, 43: 180, 31: 140}
NOISE = 8
AFFINE = np.array([[1, 0, 0, -16], [0, 1, 0, -16], [0, 0, 1, -16], [0, 0, 0, 1.0]])


def labels() -> np.ndarray:
    """Return the reference: a brain, nothing else."""
    data = np.zeros((32, 32, 32), np.int16)
    for label, box in BOXES.items():
        data[box] = label
    return data


def scan(intensities: Mapping[int, float], seed: int = 0, skull: bool = True) -> np.ndarray:
    """Return a scan: the brain in a head of fat, or alone."""
    data = np.full((32, 32, 32), AIR, np.float32)
    if skull:
        data[2:30, 3:29, 3:29] = FAT
    reference = labels()
    noise = np.random.default_rng(seed).normal(0, NOISE, data.shape)
    for label, value in intensities.items():
        inside = reference == label
        data[inside] = value + noise[inside]
    return data


def write_dataset(root: Path) -> tuple[Path, Path]:
    """Write three T1w scans, one of them stripped, a T2w scan, and references of other grids.

    Returns
    -------
    raw, references : Path
    """
    raw, references = root / 'raw', root / 'references'
    for number, brighter in enumerate((-10, 0, 30), start=1):
        brain = {k: v + brighter for k, v in T1W.items()}
        save(raw, f'sub-{number}', 'T1w', scan(brain, number, skull=number != 3), AFFINE)
        # Other axes, another field of view.
        reference = labels()[3:, :, 2:].transpose(0, 2, 1)[::-1, ::-1]
        moved = np.array([[-1, 0, 0, 15], [0, 0, 1, -16], [0, -1, 0, 15], [0, 0, 0, 1.0]])
        save(references, f'sub-{number}', 'desc-aparcaseg_dseg', reference, moved)
    save(raw, 'sub-1', 'T2w', scan(T2W), AFFINE)
    save(raw, 'sub-4', 'T1w', scan(T1W), AFFINE)
    return raw, references


def save(root: Path, subject: str, suffix: str, data: np.ndarray, affine: np.ndarray) -> Path:
    path = root / subject / 'anat' / f'{subject}_{suffix}.nii.gz'
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path
