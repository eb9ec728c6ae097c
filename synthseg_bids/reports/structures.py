"""Structures as a reader thinks of them: left and right together, under a plain name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from synthseg_bids.labels import Label, segmentation_labels

from .html import Html, el

_PLAIN = {
    'Inf-Lat-Vent': 'Inferior lateral ventricle',
    'VentralDC': 'Ventral diencephalon',
    'Accumbens-area': 'Accumbens',
    'Brain-Stem': 'Brainstem',
    'CSF': 'Cerebrospinal fluid',
}


@dataclass(frozen=True)
class Structure:
    """A structure with its labels: left and right, or just one.

    Attributes
    ----------
    title : str
    labels : tuple of Label
    """

    title: str
    labels: tuple[Label, ...]

    @property
    def color(self) -> str:
        """``#rrggbb``."""
        return self.labels[0].color


def plain_name(name: str) -> str:
    """Return a label's name without its side, in plain words.

    Examples
    --------
    >>> plain_name('Left-Cerebral-White-Matter'), plain_name('Right-VentralDC')
    ('Cerebral white matter', 'Ventral diencephalon')
    """
    name = name.removeprefix('Left-').removeprefix('Right-')
    return _PLAIN.get(name, name.replace('-', ' ').capitalize())


@lru_cache(maxsize=1)
def structures() -> tuple[Structure, ...]:
    """Return all segmented structures: paired ones first, then those of the midline."""
    labels = {label.index: label for label in segmentation_labels() if label.index != 0}
    pairs = [
        Structure(plain_name(label.name), (label, labels[label.mirror]))
        for label in labels.values()
        if label.side == 'left'
    ]
    single = [
        Structure(plain_name(label.name), (label,))
        for label in labels.values()
        if label.side == 'none'
    ]
    return (*pairs, *single)


def structure_name(structure: Structure) -> Html:
    """Return the header cell of a structure's row: its colour and name."""
    swatch = el('span', class_='swatch', style=f'background:{structure.color}')
    return el('th', swatch, structure.title, scope='row', class_='structure')
