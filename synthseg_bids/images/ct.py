"""Recognise computed tomography by its intensities; the brain window.

Intensities are Hounsfield units (HU): air -1000, fat about -100, water 0, white matter 25 to 32,
grey matter 35 to 40, blood 45 to 80, bone from 300.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Brain window, in HU.
CT_RANGE = (0, 80)
#: BIDS suffixes of CT scans.
CT_SUFFIXES = ('CT', 'ct')

#: Upper bound of air, ranges of fat (and partial volume of air and skin) and of soft tissue, and
#: lower bound of bone.
AIR_HU, FAT_HU, SOFT_HU, BONE_HU = -900, (-250, -30), (0, 100), 300
#: Least shares: of air among all voxels; of fat, soft tissue and bone among the others.
MIN_AIR, MIN_FAT, MIN_SOFT, MIN_BONE = 0.03, 0.01, 0.1, 0.005


def ct_setting(ct: bool | None, suffix: str) -> bool | None:
    """Return whether an image is CT, by the user's setting or, without one, by its suffix.

    Parameters
    ----------
    ct : bool, optional
    suffix : str

    Returns
    -------
    bool or None
        None if the intensities are to decide.
    """
    return True if ct is None and suffix in CT_SUFFIXES else ct


def describe_ct(ct: bool | None) -> bool | str:
    """Return the setting for a sidecar, which has no null: ``auto`` if intensities decide."""
    return 'auto' if ct is None else ct


def is_ct(told: bool | None, data: np.ndarray) -> bool:
    """Return whether a scan is CT, by its intensities if nothing else tells.

    Parameters
    ----------
    told : bool, optional
        What is known of it; see :func:`ct_setting`.
    data : (x, y, z) array
        See :func:`is_hounsfield`.
    """
    return is_hounsfield(data) if told is None else told


def is_hounsfield(data: np.ndarray) -> bool:
    """Return whether the intensities of a whole head are Hounsfield units.

    Parameters
    ----------
    data : (x, y, z) array
        Finite.

    Returns
    -------
    bool
        True if there are air, fat, soft tissue and bone. MRI has no negative intensities or, if
        standardised or padded, none between its tissue and -900. A skull-stripped CT scan has
        neither fat nor bone and is not recognised.

    Examples
    --------
    >>> import numpy as np
    >>> hounsfield = np.repeat([-1000, -100, 30, 35, 900], 200).reshape(10, 10, 10)
    >>> is_hounsfield(hounsfield), is_hounsfield(hounsfield + 1024)
    (True, False)
    """
    sample = data.ravel()[:: max(1, data.size // 1_000_000)]
    head = sample[sample > AIR_HU]
    if not head.size or head.size > (1 - MIN_AIR) * sample.size:
        return False
    fat, soft = (
        ((head > low) & (head < high)).mean() >= share
        for (low, high), share in ((FAT_HU, MIN_FAT), (SOFT_HU, MIN_SOFT))
    )
    return bool(fat and soft and (head > BONE_HU).mean() >= MIN_BONE)
