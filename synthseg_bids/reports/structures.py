"""Structures of the reports: left and right together, under a plain name."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from synthseg_bids.labels import LESION_NAME, Label, segmentation_labels
from synthseg_bids.parcels import parcel_labels, parcel_titles

from .tree import Row, number

_PLAIN = {
    'Inf-Lat-Vent': 'Inferior lateral ventricle',
    'VentralDC': 'Ventral diencephalon',
    'Accumbens-area': 'Accumbens',
    'Brain-Stem': 'Brainstem',
    'CSF': 'Cerebrospinal fluid',
    LESION_NAME: 'White matter lesions',
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


@lru_cache(maxsize=1)
def _parcels_by_name() -> dict[str, str]:
    titles = parcel_titles()
    return {label.name: titles[label.index] for label in parcel_labels()}


def plain_name(name: str) -> str:
    """Return a label's name without its side, in plain words.

    Examples
    --------
    >>> plain_name('Left-Cerebral-White-Matter'), plain_name('Right-VentralDC')
    ('Cerebral white matter', 'Ventral diencephalon')
    >>> plain_name('ctx-rh-caudalmiddlefrontal')
    'Caudal middle frontal'
    """
    if name in _parcels_by_name():
        return _parcels_by_name()[name]
    name = name.removeprefix('Left-').removeprefix('Right-')
    return _PLAIN.get(name, name.replace('-', ' ').capitalize())


def side_of(name: str) -> str:
    """Return the side of a label by its name: ``left``, ``right``, or empty text.

    Examples
    --------
    >>> side_of('Right-VentralDC'), side_of('ctx-lh-insula'), side_of('CSF')
    ('right', 'left', '')
    """
    begins = {'left': ('Left-', 'ctx-lh-'), 'right': ('Right-', 'ctx-rh-')}
    return next((side for side, texts in begins.items() if name.startswith(texts)), '')


def sided_name(label: Label) -> str:
    """Return a label's name in plain words, with its side.

    Examples
    --------
    >>> [sided_name(label) for label in segmentation_labels() if label.index in (10, 16)]
    ['left thalamus', 'brainstem']
    """
    side = '' if label.side == 'none' else f'{label.side} '
    return f'{side}{plain_name(label.name).lower()}'


@lru_cache(maxsize=2)
def structures(lesions: bool = False) -> tuple[Structure, ...]:
    """Return all segmented structures: paired ones first, then those of the midline.

    Parameters
    ----------
    lesions : bool
        See :func:`synthseg_bids.labels.segmentation_labels`.
    """
    labels = {label.index: label for label in segmentation_labels(lesions) if label.index != 0}
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


def structures_of(names: Container[str]) -> tuple[Structure, ...]:
    """Return the structures of a table by the names in it; see :func:`structures`.

    Parameters
    ----------
    names : container of str
        Names of labels, among others.
    """
    return structures(LESION_NAME in names)


@lru_cache(maxsize=1)
def parcels() -> tuple[Structure, ...]:
    """Return all parcels of the cortex, those of both sides together."""
    labels = {label.index: label for label in parcel_labels()}
    return tuple(
        Structure(plain_name(label.name), (label, labels[label.mirror]))
        for label in labels.values()
        if label.side == 'left'
    )


def parcels_of(names: Container[str]) -> tuple[Structure, ...]:
    """Return the parcels in a table by the names in it; see :func:`structures_of`."""
    return tuple(one for one in parcels() if any(label.name in names for label in one.labels))


def mean_by_structure(
    columns: Iterable[Mapping[str, Row]],
    name: str,
    of: Iterable[Structure] | None = None,
) -> list[tuple[Structure | None, list[float | None]]]:
    """Average a column of tables over the two sides of every structure.

    Parameters
    ----------
    columns : iterable of mapping of str to Row
        Rows of each table by the name of their label.
    name : str
        Name of the column.
    of : iterable of Structure, optional
        Default: :func:`structures_of` the tables.

    Returns
    -------
    list of (Structure, list of float or None)
        A value per table; None where neither side has one.
    """
    tables = list(columns)
    names = {key for table in tables for key in table}
    return [
        (structure, [_mean(table, structure, name) for table in tables])
        for structure in (structures_of(names) if of is None else of)
    ]


def _mean(table: Mapping[str, Row], structure: Structure, name: str) -> float | None:
    values = [number(table.get(label.name, {}).get(name)) for label in structure.labels]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
