"""Volumes in the tables of FreeSurfer and SAMSEG, for the labels that we have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..files import read_text
from ..labels import channel_labels, fold_reference

#: White matter of either side.
_HYPOINTENSITIES = 77


def read_volumes(path: str | Path) -> dict[int, float]:
    """Read a table of volumes as FreeSurfer and SAMSEG write it (``aseg.stats`` and the like).

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict of int to float
        Volume in mm^3 by label.
    """
    lines = read_text(Path(path)).splitlines()
    head = next(line for line in lines if line.startswith('# ColHeaders'))
    columns = head.split()[2:]
    label, volume = columns.index('SegId'), columns.index('Volume_mm3')
    rows = [line.split() for line in lines if line.strip() and not line.startswith('#')]
    return {int(row[label]): float(row[volume]) for row in rows}


def fold_volumes(
    volumes: Mapping[int, float], labels: np.ndarray, folded: np.ndarray
) -> list[float]:
    """Add up the volumes of the labels that become one of ours.

    Parameters
    ----------
    volumes : mapping of int to float
        By the labels of FreeSurfer or SAMSEG; both cerebral white matters are among them.
    labels, folded : (x, y, z) integer array
        The label map, and what :func:`synthseg_bids.labels.fold_reference` makes of it: unsided
        hypointensities are divided among left and right as their voxels are.

    Returns
    -------
    list of float
        By channel, background included.
    """
    known = np.array([label for label in volumes if label != _HYPOINTENSITIES])
    ours = fold_reference(known[:, None, None]).ravel()
    soft = dict.fromkeys(channel_labels(), 0.0)
    for label, target in zip(known.tolist(), ours.tolist(), strict=True):
        soft[target] += volumes[label]
    unsided = folded[labels == _HYPOINTENSITIES]
    left = float((unsided == 2).mean()) if unsided.size else 0.5
    soft[2] += left * volumes.get(_HYPOINTENSITIES, 0.0)
    soft[41] += (1 - left) * volumes.get(_HYPOINTENSITIES, 0.0)
    return list(soft.values())
