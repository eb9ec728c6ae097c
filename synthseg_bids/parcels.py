"""Parcels of the cerebral cortex: the 34 of each hemisphere of the Desikan-Killiany atlas.

They are numbered as in the ``aparc+aseg`` of FreeSurfer: the left ones from 1001 to 1035, the
right ones from 2001 to 2035; 1004 and 2004, the corpus callosum, are no cortex. An *aparc+aseg
map* is a label map with these in the place of the two labels of the cortex (3 and 42).

The atlas is that of Desikan et al. (NeuroImage 31:968, 2006). Its revision by Klein and Tourville
(Front. Neurosci. 6:171, 2012), DKT, has the same numbers but leaves out three parcels
(:data:`NOT_IN_DKT`), which it gives to their neighbours.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files

from .labels import PAPER_STRUCTURES, Label, segmentation_labels

#: Labels of the cortex of both sides, which parcels take the place of.
CORTEX = PAPER_STRUCTURES['cerebral cortex']
#: Cortex of each side, and what the number of a parcel is added to there.
SIDES = {'left': (CORTEX[0], 1000), 'right': (CORTEX[1], 2000)}
#: Numbers of the parcels that DKT does not have: banks of the superior temporal sulcus, frontal
#: pole, temporal pole.
NOT_IN_DKT = (1, 32, 33)
#: BIDS standard tissue of cortex; see :attr:`.labels.Label.mapping`.
_CORTICAL_GREY = 8
#: What the name of a parcel begins with on each side.
_PREFIXES = {'left': 'ctx-lh-', 'right': 'ctx-rh-'}


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, str], ...]:
    text = files('synthseg_bids').joinpath('data/parcels.tsv').read_text(encoding='utf-8')
    return tuple(csv.DictReader(text.splitlines(), delimiter='\t'))


#: The 34 numbers, ascending: 1 to 35 without 4.
PARCEL_NUMBERS: tuple[int, ...] = tuple(int(row['number']) for row in _rows())


def parcel_label(side: str, number: int) -> int:
    """Return the label of a parcel in an aparc+aseg map.

    Parameters
    ----------
    side : {'left', 'right'}
    number : int
        One of :data:`PARCEL_NUMBERS`.

    Examples
    --------
    >>> parcel_label('right', 3)
    2003
    """
    if number not in PARCEL_NUMBERS:
        raise ValueError(f'parcel {number}: there are {", ".join(map(str, PARCEL_NUMBERS))}')
    return SIDES[side][1] + number


@lru_cache(maxsize=1)
def parcel_labels() -> tuple[Label, ...]:
    """Return the 68 parcels in ascending order: those of the left side, then the right ones.

    Their :attr:`.labels.Label.target` is the cortex of their side.

    Examples
    --------
    >>> first = parcel_labels()[0]
    >>> first.index, first.name, first.mirror, first.target
    (1001, 'ctx-lh-bankssts', 2001, 3)
    """
    found = []
    for side, (cortex, first) in SIDES.items():
        (other,) = (start for _, start in SIDES.values() if start != first)
        for row in _rows():
            number = int(row['number'])
            found.append(
                Label(
                    index=first + number,
                    name=_PREFIXES[side] + row['name'],
                    abbreviation=f'{side[0].upper()}-{row["abbreviation"]}',
                    side=side,
                    mirror=other + number,
                    generation_class=-1,
                    target=cortex,
                    channel=None,
                    topology_group=0,
                    extracerebral=False,
                    mapping=_CORTICAL_GREY,
                    color=row['color'],
                )
            )
    return tuple(found)


@lru_cache(maxsize=1)
def parcel_titles() -> dict[int, str]:
    """Return the plain name of each parcel, without its side, by its label.

    Examples
    --------
    >>> parcel_titles()[2033]
    'Temporal pole'
    """
    return {
        first + int(row['number']): row['title'] for _, first in SIDES.values() for row in _rows()
    }


@lru_cache(maxsize=2)
def aparcaseg_labels(lesions: bool = False) -> tuple[Label, ...]:
    """Return the labels of an aparc+aseg map: the segmentation labels with parcels for cortex.

    Parameters
    ----------
    lesions : bool
        See :func:`.labels.segmentation_labels`.
    """
    rest = (label for label in segmentation_labels(lesions) if label.index not in CORTEX)
    return (*rest, *parcel_labels())
