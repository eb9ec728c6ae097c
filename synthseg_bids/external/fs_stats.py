"""Tables of volumes as FreeSurfer and SAMSEG write them, for the labels that we have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_text, write_text
from ..labels import SUBCORTICAL_GREY, channel_labels, fold_reference, labels_of_tissue
from ..parcels import CORTEX, parcel_labels

#: White matter of either side.
_HYPOINTENSITIES = 77
_SUBCORTICAL = labels_of_tissue(SUBCORTICAL_GREY)
#: Name, field, description and labels of FreeSurfer's measures that are sums of our labels.
_MEASURES: tuple[tuple[str, str, str, tuple[int, ...]], ...] = (
    ('lhCortex', 'lhCortexVol', 'Left hemisphere cortical gray matter volume', (3,)),
    ('rhCortex', 'rhCortexVol', 'Right hemisphere cortical gray matter volume', (42,)),
    ('Cortex', 'CortexVol', 'Total cortical gray matter volume', CORTEX),
    (
        'CerebralWhiteMatter',
        'CerebralWhiteMatterVol',
        'Total cerebral white matter volume',
        (2, 41, _HYPOINTENSITIES),
    ),
    ('SubCortGray', 'SubCortGrayVol', 'Subcortical gray matter volume', _SUBCORTICAL),
    (
        'TotalGray',
        'TotalGrayVol',
        'Total gray matter volume',
        (*CORTEX, 8, 47, *_SUBCORTICAL),
    ),
)
_COLUMNS = (
    *('Index', 'SegId', 'NVoxels', 'Volume_mm3', 'StructName'),
    *('normMean', 'normStdDev', 'normMin', 'normMax', 'normRange'),
)


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


def labels_of_measure(field: str) -> tuple[int, ...]:
    """Return the labels whose volumes a measure of ``aseg.stats`` sums.

    Examples
    --------
    >>> labels_of_measure('CortexVol')
    (3, 42)
    """
    return next(labels for _, name, _, labels in _MEASURES if name == field)


def write_stats(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    image: np.ndarray,
    labels: np.ndarray,
    parcels: bool = False,
) -> None:
    """Write a table like FreeSurfer's ``aseg.stats``, for ``asegstats2table`` and the like.

    Parameters
    ----------
    path : Path
    rows : sequence of mapping
        ``index``, ``name``, ``n_voxels`` and ``volume_mm3`` of each structure; the last row is
        their total. Those without a volume are left out, and so are measures that need them.
        There may be rows for parcels of the cortex as well.
    image : (x, y, z) array
        The scan, whose intensities are described; they are not normalised as FreeSurfer's are.
    labels : (x, y, z) integer array
        On the same grid; with parcels, if those are asked for.
    parcels : bool
        Whether to write the parcels, with the volumes of the cortex, instead of the structures.
        Nothing is measured of surfaces, hence it is no table as FreeSurfer's ``lh.aparc.stats``.
    """
    *known, total = [row for row in rows if 'volume_mm3' in row or 'index' not in row]
    of_parcels = {label.index for label in parcel_labels()}
    structures = [row for row in known if (row['index'] in of_parcels) == parcels]
    summed = (*structures, *(row for row in known if parcels and row['index'] in CORTEX))
    lines = [
        '# Title Segmentation Statistics',
        '#',
        '# generating_program synthseg-bids',
        '# anatomy_type volume',
        *_measures({row['index']: row['volume_mm3'] for row in summed}, total),
        f'# NRows {len(structures)}',
        f'# NTableCols {len(_COLUMNS)}',
        f'# ColHeaders  {" ".join(_COLUMNS)}',
    ]
    for number, row in enumerate(structures, 1):
        mean, deviation, low, high = _intensities(image[labels == row['index']])
        lines.append(
            f'{number:3d} {row["index"]:3d}  {row["n_voxels"]:8d} {row["volume_mm3"]:10.1f}  '
            f'{row["name"]:<30s} {mean:10.4f} {deviation:10.4f} {low:10.4f} {high:10.4f} '
            f'{high - low:10.4f}'
        )
    write_text(path, '\n'.join(lines) + '\n')


def _measures(volumes: Mapping[int, float], total: Mapping[str, Any]) -> Iterator[str]:
    """Describe sums of volumes, and the intracranial volume, as FreeSurfer does."""
    for name, field, description, labels in _MEASURES:
        if {*labels} - {_HYPOINTENSITIES} <= {*volumes}:
            volume = sum(volumes.get(label, 0.0) for label in labels)
            yield f'# Measure {name}, {field}, {description}, {volume:.6f}, mm^3'
    if 'volume_mm3' in total:
        yield (
            '# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, '
            f'{total["volume_mm3"]:.6f}, mm^3'
        )


def _intensities(values: np.ndarray) -> tuple[float, float, float, float]:
    """Return mean, standard deviation, minimum and maximum; zeros where there is no voxel."""
    if not values.size:
        return 0.0, 0.0, 0.0, 0.0
    deviation = values.std(ddof=1, dtype=np.float64) if values.size > 1 else 0.0
    mean = values.mean(dtype=np.float64)
    return float(mean), float(deviation), float(values.min()), float(values.max())
