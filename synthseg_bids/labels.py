"""Label tables: which structures are generated, segmented, mirrored and compared.

Three sets of integer labels, all numbered as in FreeSurfer's colour table, meet in SynthSeg:

*generation labels*
    every label of the training label maps; each draws its own intensities (or shares those of
    its generation class).
*segmentation labels*
    what the network predicts: the generation labels with the extra-cerebral ones merged into
    background, lesions into white matter and choroid plexus into the ventricles.
*paper structures*
    the 12 structures over which the MIDL 2020 paper reports Dice, left and right averaged.

Network channels are the segmentation labels in ascending order.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

#: The 12 structures of the paper's evaluation (section 3), with their left and right labels.
PAPER_STRUCTURES: dict[str, tuple[int, ...]] = {
    'cerebral white matter': (2, 41),
    'cerebral cortex': (3, 42),
    'lateral ventricle': (4, 43),
    'cerebellar white matter': (7, 46),
    'cerebellar cortex': (8, 47),
    'thalamus': (10, 49),
    'caudate': (11, 50),
    'putamen': (12, 51),
    'pallidum': (13, 52),
    'brainstem': (16,),
    'hippocampus': (17, 53),
    'amygdala': (18, 54),
}


#: The cerebrospinal fluid around the brain.
CSF = 24
#: Lesions of the white matter (FreeSurfer: WM-hypointensities), a label of some networks.
LESION, LESION_NAME = 77, 'WM-hypointensities'
#: Generation label of lesions by what they lie in: white matter of cerebrum and cerebellum, and
#: brainstem.
LESION_OF = {2: 25, 41: 57, 7: 25, 46: 57, 16: 25}
LESION_TISSUES = tuple(LESION_OF)
#: BIDS standard tissue of the deep grey matter; see :attr:`Label.mapping`.
SUBCORTICAL_GREY = 9
#: Generation labels of lesions on the left and on the right.
DRAWN_LESIONS = (25, 57)
#: Left and right labels of codes without a side: white matter (corpus callosum, ...), vermis.
UNSIDED = {-1: (2, 41), -2: (8, 47)}
#: What an absent label is part of where a map does not distinguish it: cerebellar white matter of
#: the cerebellar cortex, the inferior horn of the lateral ventricle, accumbens of the putamen.
PART_OF = {7: 8, 46: 47, 5: 4, 44: 43, 26: 12, 58: 51}


class LabelSchemeError(ValueError):
    """A label map's numbering is not one that we can translate."""


@dataclass(frozen=True)
class Label:
    """One row of the label table.

    Attributes
    ----------
    index : int
        Value in the label map.
    name, abbreviation : str
        FreeSurfer's name, and a short one (``n/a`` for labels that are not segmented).
    side : str
        ``left``, ``right`` or ``none``.
    mirror : int
        Label of the same structure on the other side (itself for unpaired structures).
    generation_class : int
        Labels of one class share their intensity distribution (-1: not drawn).
    target : int
        Segmentation label it becomes (0: background).
    channel : int or None
        Network channel of a segmentation label.
    topology_group : int
        Segmentation labels of one group form one connected body (0: not constrained).
    extracerebral : bool
        Removed by skull stripping.
    mapping : int or None
        BIDS standard tissue (1 GM, 2 WM, 3 CSF, 8 cortical GM, 9 subcortical GM,
        10 brainstem, 11 cerebellum).
    color : str
        ``#rrggbb``.
    """

    index: int
    name: str
    abbreviation: str
    side: str
    mirror: int
    generation_class: int
    target: int
    channel: int | None
    topology_group: int
    extracerebral: bool
    mapping: int | None
    color: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, each from 0 to 255."""
        red, green, blue = bytes.fromhex(self.color.removeprefix('#'))
        return red, green, blue


def _optional_int(text: str) -> int | None:
    return None if text == 'n/a' else int(text)


@lru_cache(maxsize=1)
def _all_labels() -> tuple[Label, ...]:
    """Return the rows of the label table."""
    text = files('synthseg_bids').joinpath('data/labels.tsv').read_text(encoding='utf-8')
    return tuple(
        Label(
            index=int(row['index']),
            name=row['name'],
            abbreviation=row['abbreviation'],
            side=row['side'],
            mirror=int(row['mirror']),
            generation_class=int(row['generation_class'].replace('n/a', '-1')),
            target=int(row['target']),
            channel=_optional_int(row['channel']),
            topology_group=_optional_int(row['topology_group']) or 0,
            extracerebral=row['extracerebral'] == 'yes',
            mapping=_optional_int(row['mapping']),
            color='#808080' if row['color'] == 'n/a' else row['color'],
        )
        for row in csv.DictReader(text.splitlines(), delimiter='\t')
    )


@lru_cache(maxsize=1)
def generation_labels() -> tuple[Label, ...]:
    """Return every label of the training label maps: neutral, left, then right ones.

    Returns
    -------
    tuple of Label
        The left and right parts list the same structures in the same order.
    """
    return tuple(label for label in _all_labels() if label.generation_class >= 0)


@lru_cache(maxsize=2)
def segmentation_labels(lesions: bool = False) -> tuple[Label, ...]:
    """Return the labels that a network predicts, in channel order (background first).

    Parameters
    ----------
    lesions : bool
        Whether lesions of the white matter are the last of 34 labels; otherwise they count as
        white matter, and there are 33.
    """
    found = (label for label in _all_labels() if label.channel is not None)
    every = tuple(sorted(found, key=lambda label: label.channel or 0))
    return tuple(label for label in every if lesions or label.index != LESION)


def labels_of_tissue(mapping: int) -> tuple[int, ...]:
    """Return the segmentation labels of a BIDS standard tissue (:attr:`Label.mapping`)."""
    found = segmentation_labels(lesions=True)
    return tuple(label.index for label in found if label.mapping == mapping)


def network_labels(lesions: bool = False) -> tuple[int, ...]:
    """Return the segmentation label of each channel (:func:`segmentation_labels`)."""
    return tuple(label.index for label in segmentation_labels(lesions))


def channels_of(count: int) -> tuple[Label, ...]:
    """Return the labels of a network by the number of its channels: 34 with lesions."""
    return segmentation_labels(lesions=count == len(segmentation_labels(lesions=True)))


def channel_labels() -> tuple[int, ...]:
    """Return the segmentation label of each channel of a network without lesions."""
    return network_labels()


@lru_cache(maxsize=1)
def unsided_classes() -> tuple[int, ...]:
    """Return the generation class of each generation label where left and right share one.

    Returns
    -------
    tuple of int
        In the order of :func:`generation_labels`; numbered from 0 without gaps.
    """
    own = {label.index: label.generation_class for label in generation_labels()}
    return tuple(min(own[label.index], own[label.mirror]) for label in generation_labels())


def mirror_channels(labels: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the channel permutation that a left/right flip of the image asks for.

    Parameters
    ----------
    labels : tuple of int, optional
        Segmentation labels in channel order (default: our own 33).

    Returns
    -------
    (n_channels,) integer array

    Examples
    --------
    >>> mirror_channels((0, 2, 16, 41)).tolist()
    [0, 3, 2, 1]
    """
    if labels is None:
        labels = channel_labels()
    mirror = {label.index: label.mirror for label in _all_labels()}
    return np.array([labels.index(mirror[value]) for value in labels])


def generation_indices(label_map: np.ndarray, source: str = 'label map') -> np.ndarray:
    """Replace label values by their row in :func:`generation_labels`.

    Parameters
    ----------
    label_map : (x, y, z) integer array
        Generation labels.
    source : str
        What to call the label map in an error message.

    Returns
    -------
    (x, y, z) uint8 array

    Raises
    ------
    LabelSchemeError
        If the map holds a value that is not a generation label.
    """
    values = np.array([label.index for label in generation_labels()])
    table = np.full(values.max() + 1, 255, dtype=np.uint8)
    table[values] = np.arange(len(values))
    present = np.unique(label_map)
    known = present[(present >= 0) & (present < table.size)].astype(int)
    unknown = sorted({*present.tolist()} - {*known[table[known] != 255].tolist()})
    if unknown:
        raise LabelSchemeError(
            f'{source}: labels {unknown[:10]} are not generation labels; remove them or map them '
            f'to FreeSurfer numbers (known: {", ".join(map(str, sorted(values.tolist())))})'
        )
    return table[label_map.astype(np.intp)]


def reference_table() -> dict[int, int]:
    """Map the FreeSurfer labels that references use to segmentation labels.

    Negative values (:data:`UNSIDED`) stand for midline white matter (corpus callosum, unsided
    hypointensities) and vermis, which :func:`fold_reference` gives to the side they lie on.
    """
    table = {label.index: label.target for label in generation_labels()}
    table |= {1: 0, 40: 0, 6: 0, 45: 0, 29: 0, 61: 0, 80: 0, 165: 0, 258: 0, 259: 0}
    table |= {31: 4, 63: 43, 78: 2, 79: 41, 19: 3, 20: 3, 55: 42, 56: 42, 9: 10, 48: 49}
    table |= {27: 28, 59: 60, 172: -2, 77: -1, 192: -1, **dict.fromkeys(range(250, 256), -1)}
    table |= {5001: 2, 5002: 41}
    for first, last, target in (
        (1000, 1035, 3), (2000, 2035, 42),  # Desikan-Killiany cortex
        (3000, 3035, 2), (4000, 4035, 41),  # the white matter below it
        (11100, 11175, 3), (12100, 12175, 42),  # Destrieux 2009
        (13100, 13175, 2), (14100, 14175, 41),
    ):  # fmt: skip
        table |= dict.fromkeys(range(first, last + 1), target)
    return table


def fold_reference(reference: np.ndarray, source: str = 'reference') -> np.ndarray:
    """Translate a FreeSurfer or SAMSEG segmentation to our segmentation labels.

    Cortical parcels become cortex, parcelled white matter becomes white matter, the choroid
    plexus joins its ventricle, tissue outside the brain becomes background. The corpus callosum
    and unsided hypointensities join the white matter of the side they lie on, the vermis joins
    the cerebellar cortex.

    Parameters
    ----------
    reference : (x, y, z) integer array
    source : str
        What to call it in an error message.

    Returns
    -------
    (x, y, z) int16 array

    Raises
    ------
    LabelSchemeError
        If a label is not one of FreeSurfer's; the message names the scheme where it is known.
    """
    table = reference_table()
    folded = translate(reference, table, UNSIDED, source)
    values = _distinct(reference)
    # Values up to 4 could be left structures alone, but are tissue classes wherever seen.
    if values.max() <= 4 or not {2, 41} & {table[int(v)] for v in values}:
        raise LabelSchemeError(
            f'{source}: labels {values[:10].tolist()} hold no cerebral white matter '
            f'(2, 41 or its parcels){_guess_scheme([], values)}; a whole-brain FreeSurfer-style '
            'label map is needed'
        )
    return folded


def translate(
    codes: np.ndarray,
    table: Mapping[int, int],
    unsided: Mapping[int, tuple[int, int]],
    source: str,
) -> np.ndarray:
    """Replace FreeSurfer's codes by other labels.

    Parameters
    ----------
    codes : (x, y, z) integer array
    table : mapping of int to int
        Label of each known code, or the key of `unsided` for one without a side.
    unsided : mapping of int to (int, int)
        Left and right labels, one of which a voxel gets by the hemisphere that it lies in.
    source : str
        What to call the label map in an error message.

    Returns
    -------
    (x, y, z) int16 array

    Raises
    ------
    LabelSchemeError
        If a code is unknown; the message names the scheme where it is known.
    """
    values = _distinct(codes)
    unknown = [int(v) for v in values if int(v) not in table]
    if unknown:
        raise LabelSchemeError(
            f'{source}: labels {unknown[:10]} are not FreeSurfer labels'
            f'{_guess_scheme(unknown, values)}; map them to FreeSurfer numbers first'
        )
    lookup = np.zeros(int(values.max()) + 1, dtype=np.int16)
    lookup[values] = [table[int(v)] for v in values]
    found = lookup[codes]
    for key, (left, right) in unsided.items():
        midline = found == key
        if midline.any():
            found[midline] = np.where(nearest_side(found, midline) == 2, left, right)
    return found


def _distinct(labels: np.ndarray) -> np.ndarray:
    """Return the sorted values of an integer array; counting beats sorting all its voxels."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 1 << 20:
        return np.unique(labels)
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=1))


def _guess_scheme(unknown: list[int], values: np.ndarray) -> str:
    """Name the labelling scheme that the values look like, for an error message."""
    top = int(values.max())
    if unknown and sum(100 <= v <= 208 for v in unknown) > len(unknown) / 2:
        return ' (they look like GIF or Neuromorphometrics parcels)'
    if top <= 4:
        return ' (they look like tissue classes)'
    return ''


def nearest_side(folded: np.ndarray, midline: np.ndarray) -> np.ndarray:
    """Give each midline voxel the white matter label of the hemisphere it lies in."""
    left, right = (np.argwhere(folded == label) for label in (2, 41))
    if len(left) == 0 or len(right) == 0:
        return np.full(int(midline.sum()), 2 if len(left) else 41, dtype=np.int16)
    centre_left, centre_right = left.mean(0), right.mean(0)
    towards_right = centre_right - centre_left
    offset = np.argwhere(midline) - (centre_left + centre_right) / 2
    return np.where(offset @ towards_right > 0, 41, 2).astype(np.int16)
