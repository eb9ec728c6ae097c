"""Estimate hyperpriors of intensities from real scans, for SynthSeg-rule.

The mean and standard deviation of each class in a scan are the median and the scaled median
absolute deviation over its voxels, with the intensities of the network's input. The median and the
scaled median absolute deviation of these over the scans of a contrast are the Gaussian
hyperpriors. Left and right share a class.

References rarely have all classes of the generator. Missing ones are, in this order:

*borrowed* from a class of the same tissue (:data:`BORROWED`: the fifth ventricle looks like the
lateral ones);

*tissue*: references do not distinguish extra-cerebral classes. Each class's mean has the
distribution of the intensities of bright voxels without label, its standard deviation that of the
brain's classes. Bright means above Otsu's threshold, so that compact bone belongs to the
background; only scans that show a head are used (:data:`MIN_HEAD`);

*wide*: the Gaussian with the moments of the uniform distribution that SynthSeg itself draws from;
also for lesions and vessels, unless the references label them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import UsageError
from ..files import read_text
from ..images.geometry import bounding_box
from ..labels import Label, generation_labels, unsided_classes
from ..measure.stats import median_and_deviation
from ..synth.intensity import WHITE, ContrastPriors, IntensityConfig
from .real_scans import LoadedPair

#: Name of the file format.
FORMAT = 'synthseg-bids intensity priors 1'

#: Labels that use the class of another one, if the references do not have theirs.
BORROWED = {24: 4, 72: 4, 136: 4, 85: 2}
#: FreeSurfer's labels with other numbers in the generator: choroid plexus, lesions.
_OTHER_NUMBERS = {31: 136, 63: 136, 77: 25, 78: 25, 79: 25}

#: Classes with fewer voxels than this in a scan are not measured in it.
MIN_VOXELS = 50
#: Least number of bright voxels outside the brain's bounding box, as a fraction of the brain's
#: voxels, in scans that show a head. A whole head has 0.2, skull-stripped ones 0.001 to 0.003.
MIN_HEAD = 0.02
#: Least standard deviation between scans of a class's mean and of its standard deviation, as
#: fractions of the intensity range; it cannot be estimated from one or few scans. Among T1w scans
#: from four sources half of the classes have 0.04 to 0.07, and 0.01 to 0.03.
FLOORS = (0.05, 0.02)

_KEYS = ('mean', 'std')


class PriorsError(UsageError):
    """A file of priors cannot be used."""


@dataclass(frozen=True)
class Measured:
    """A class in one scan: number of voxels, mean and standard deviation (both robust)."""

    voxels: int
    mean: float
    std: float


#: Number for the mixture of extra-cerebral classes, and for voxels of unknown class.
_TISSUE = -1


def _class_of_label() -> dict[int, int]:
    labels = (label.index for label in generation_labels())
    return dict(zip(labels, unsided_classes(), strict=True))


def _classes(pair: LoadedPair) -> np.ndarray:
    """Return the class of each voxel of a reference, -1 if unknown."""
    of_label = _class_of_label()
    # Unlabelled voxels may be air or tissue.
    of_label[0] = _TISSUE
    lookup = np.full(max(of_label) + 1, _TISSUE)
    lookup[[*of_label]] = [*of_label.values()]
    classes = lookup[pair.folded]
    # Labels whose class is lost in `folded`.
    own = of_label | {value: of_label[label] for value, label in _OTHER_NUMBERS.items()}
    for value in {*np.unique(pair.reference).tolist()} & {*own}:
        classes[pair.reference == value] = own[value]
    return classes


def measure(pair: LoadedPair) -> dict[int, Measured]:
    """Measure the classes in one scan.

    Parameters
    ----------
    pair : LoadedPair

    Returns
    -------
    dict of int to Measured
        By class; the background is 0, the mixture of extra-cerebral tissue -1.
    """
    classes = _classes(pair)
    parts = {int(c): pair.image[classes == c] for c in np.unique(classes) if c > 0}
    unlabelled = classes == _TISSUE
    if unlabelled.any():
        bright = unlabelled & (pair.image > otsu_threshold(pair.image[unlabelled]))
        parts[0] = pair.image[unlabelled & ~bright]
        if _shows_head(bright, ~unlabelled):
            parts[_TISSUE] = pair.image[bright]
    return {
        number: Measured(len(values), *median_and_deviation(values.astype(float)))
        for number, values in parts.items()
        if len(values) >= MIN_VOXELS
    }


def _shows_head(bright: np.ndarray, labelled: np.ndarray) -> bool:
    """Return whether there is tissue outside of the bounding box of all labelled voxels."""
    box = bounding_box(labelled)
    if box is None:
        return False
    beyond = int(bright.sum()) - int(bright[box].sum())
    return beyond >= MIN_HEAD * int(labelled.sum())


def otsu_threshold(values: np.ndarray) -> float:
    """Return Otsu's threshold (1979) between two groups of values.

    Parameters
    ----------
    values : (n,) array

    Returns
    -------
    float
        Threshold with the largest between-group variance; the value itself if all are equal.
    """
    if values.min() == values.max():
        return float(values.max())
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums = np.cumsum(counts * centres)
    apart = (sums[-1] * below / total - sums[:-1]) ** 2 / (below * (total - below)).clip(1)
    return float(edges[1:][np.argmax(apart)])


def estimate_priors(pairs: Iterable[LoadedPair]) -> dict[str, Any]:
    """Estimate the hyperpriors of each contrast.

    Parameters
    ----------
    pairs : iterable of LoadedPair
        Read lazily.

    Returns
    -------
    dict
        Content of the JSON file for :func:`read_priors`.
    """
    scans: dict[str, dict[str, dict[int, Measured]]] = {}
    for pair in pairs:
        scans.setdefault(pair.contrast, {})[pair.name] = measure(pair)
    return {
        'format': FORMAT,
        'generated_by': f'synthseg-bids {__version__}',
        'intensities': 'between the 0.5th and the 99.5th percentile of the scan, as 0 to 1',
        'floors_of_sd': dict(zip(_KEYS, FLOORS, strict=True)),
        'contrasts': {
            contrast: {'scans': sorted(measured), 'classes': _summarise([*measured.values()])}
            for contrast, measured in sorted(scans.items())
        },
    }


def _summarise(scans: Sequence[Mapping[int, Measured]]) -> list[dict[str, Any]]:
    """Make the rows of a contrast, one per class."""
    number_of = _class_of_label()
    borrowed = {number_of[label]: number_of[other] for label, other in BORROWED.items()}
    rows = []
    for number, labels in sorted(_labels_of_classes().items()):
        source, measured = 'estimated', _of_class(scans, number)
        if not measured and number in borrowed:
            measured = _of_class(scans, borrowed[number])
            source = f'borrowed from class {borrowed[number]}'
        gaussians = _between_scans(measured) if measured else _wide()
        if not measured:
            source = 'wide'
            if labels[0].extracerebral and (tissue := _of_class(scans, _TISSUE)):
                source, measured, gaussians = 'tissue', tissue, _of_tissue(scans, tissue)
        rows.append(
            {
                'class': number,
                'labels': [label.index for label in labels],
                'name': labels[0].name.removeprefix('Left-'),
                'source': source,
                'scans': len(measured),
                'voxels': sum(one.voxels for one in measured),
                **{
                    key: {'mean': round(centre, 5), 'sd': round(spread, 5)}
                    for key, (centre, spread) in zip(_KEYS, gaussians, strict=True)
                },
            }
        )
    return rows


def _labels_of_classes() -> dict[int, list[Label]]:
    found: dict[int, list[Label]] = {}
    for label, number in zip(generation_labels(), unsided_classes(), strict=True):
        found.setdefault(number, []).append(label)
    return found


def _of_class(scans: Sequence[Mapping[int, Measured]], number: int) -> list[Measured]:
    return [scan[number] for scan in scans if number in scan]


def _between_scans(measured: Sequence[Measured]) -> list[tuple[float, float]]:
    """Return median and scaled MAD over scans, of the mean and of the standard deviation."""
    gaussians = []
    for key, floor in zip(_KEYS, FLOORS, strict=True):
        centre, spread = median_and_deviation(np.array([getattr(one, key) for one in measured]))
        gaussians.append((centre, max(spread, floor)))
    return gaussians


def _of_tissue(
    scans: Sequence[Mapping[int, Measured]], tissue: Sequence[Measured]
) -> list[tuple[float, float]]:
    """Return the hyperpriors of each extra-cerebral class, from the mixture of all."""
    (mean, between), _ = _between_scans(tissue)
    within = float(np.median([one.std for one in tissue]))
    brain = [one for scan in scans for number, one in scan.items() if number > 0]
    return [(mean, max(between, within)), _between_scans(brain)[1]]


def _wide() -> list[tuple[float, float]]:
    """Return hyperpriors with the moments of SynthSeg's uniform distributions."""
    config = IntensityConfig()
    return [
        ((high + low) / 2 / WHITE, (high - low) / 12**0.5 / WHITE)
        for low, high in (config.mean, config.std)
    ]


def read_priors(path: Path, contrasts: Sequence[str] | None = None) -> tuple[ContrastPriors, ...]:
    """Read hyperpriors.

    Parameters
    ----------
    path : Path
        JSON written by ``synthseg estimate-priors``.
    contrasts : sequence of str, optional
        Only these (default: all).

    Returns
    -------
    tuple of ContrastPriors

    Raises
    ------
    PriorsError
        If the file has another format, an invalid number, or lacks a contrast.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise PriorsError(f'{path}: cannot be read ({error.strerror})') from None
    except ValueError as error:
        raise PriorsError(f'{path}: not JSON ({error}); {_REMAKE}') from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise PriorsError(f'{path}: not "{FORMAT}"; {_REMAKE}')
    given = content.get('contrasts')
    if not isinstance(given, dict) or not given:
        raise PriorsError(f'{path}: holds no contrast; {_REMAKE}')
    missing = sorted({*(contrasts or ())} - {*given})
    if missing:
        raise PriorsError(
            f'{path}: holds no {", ".join(missing)}; there are: {", ".join(sorted(given))}'
        )
    return tuple(_read_contrast(path, name, given[name]) for name in contrasts or sorted(given))


_REMAKE = 'make it with "synthseg estimate-priors"'


def _read_contrast(path: Path, contrast: str, content: Any) -> ContrastPriors:
    """Check the classes of one contrast."""
    try:
        by_class = {int(row['class']): row for row in content['classes']}
        gaussians = {
            key: tuple(
                (float(row[key]['mean']) * WHITE, float(row[key]['sd']) * WHITE)
                for _, row in sorted(by_class.items())
            )
            for key in _KEYS
        }
    except (KeyError, TypeError, ValueError) as error:
        raise PriorsError(
            f'{path}: {contrast} lacks a number ({type(error).__name__}: {error}); {_REMAKE}'
        ) from None
    expected = sorted(_labels_of_classes())
    if sorted(by_class) != expected:
        raise PriorsError(
            f'{path}: {contrast} has classes {sorted(by_class)}, needs 0 to {expected[-1]}; '
            f'{_REMAKE}'
        )
    for key, pairs in gaussians.items():
        for number, pair in zip(expected, pairs, strict=True):
            if not (np.isfinite(pair).all() and pair[1] >= 0):
                mean, sd = (value / WHITE for value in pair)
                raise PriorsError(
                    f'{path}: {contrast}, class {number}: {key} has mean {mean:g} and sd {sd:g}; '
                    'give finite numbers and an sd of at least 0'
                )
    return ContrastPriors(contrast, *(gaussians[key] for key in _KEYS))
