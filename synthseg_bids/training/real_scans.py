"""Find and read real scans with reference segmentations."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bids.errors import QueryError
from ..bids.image_record import ImageRecord
from ..bids.query import DEFAULT_SUFFIXES, find_images
from ..bids.references import find_reference
from ..errors import UsageError
from ..images.volume_io import InputImageError, read_label_map, read_volume
from ..inference.preprocess import prepare, rescale_intensities
from ..labels import LabelSchemeError, fold_reference
from ..measure.overlap import MIN_SHARE_IN_VIEW, FieldOfViewError, resample_nearest, share_in_view

logger = logging.getLogger(__name__)

#: Largest number of scans in one error message.
_NAMED = 5


class PairsError(UsageError):
    """Scans or their references cannot be used; the message lists them with reasons."""


@dataclass(frozen=True)
class Pair:
    """A scan and its reference on disk."""

    scan: ImageRecord
    reference: Path


@dataclass(frozen=True)
class LoadedPair:
    """A scan and its reference on the grid of the network.

    Attributes
    ----------
    name : str
        Path of the scan relative to its dataset.
    contrast : str
        Its BIDS suffix.
    image : (x, y, z) float32 array
        In RAS, with intensities in [0, 1] as in the network's input.
    reference : (x, y, z) int32 array
        Labels of the file.
    folded : (x, y, z) int16 array
        Segmentation labels.
    affine : (4, 4) array
    """

    name: str
    contrast: str
    image: np.ndarray
    reference: np.ndarray
    folded: np.ndarray
    affine: np.ndarray


def find_pairs(
    bids_dir: Path,
    references: Mapping[str, Path],
    participants: Iterable[str] | None = None,
    contrasts: Sequence[str] | None = None,
) -> list[Pair]:
    """Find the scans of a dataset that have a reference.

    Parameters
    ----------
    bids_dir : Path
    references : mapping of str to Path
        Datasets of label maps by name; the first one with a reference of a scan is used.
    participants : iterable of str, optional
        Labels, with or without ``sub-`` (default: all).
    contrasts : sequence of str, optional
        BIDS suffixes (default: those of the BIDS App).

    Returns
    -------
    list of Pair
        Sorted by path.

    Raises
    ------
    NotBidsError, QueryError
        If there is no such dataset, participant or contrast.
    PairsError
        If no scan has a reference.
    """
    for name, path in references.items():
        if not path.is_dir():
            raise PairsError(
                f'{name}={path}: no such folder; give the folder of the dataset with references'
            )
    images, _ = find_images(bids_dir, participants, suffixes=contrasts or DEFAULT_SUFFIXES)
    pairs = []
    for image in images:
        found = find_reference(image, references)
        if found:
            pairs.append(Pair(image, next(found[name] for name in references if name in found)))
    if not pairs:
        where = ', '.join(map(str, references.values()))
        raise PairsError(
            f'{bids_dir}: {len(images)} scans, none with a reference in {where}; names must agree '
            'in subject, session, acquisition and run'
        )
    missing = {*(contrasts or ())} - {pair.scan.suffix for pair in pairs}
    if missing:
        has = ', '.join(sorted({pair.scan.suffix for pair in pairs}))
        raise QueryError(
            f'{bids_dir}: no {", ".join(sorted(missing))} scan has a reference; there are: {has}'
        )
    logger.info('%d of %d scans have a reference', len(pairs), len(images))
    return pairs


def load_pair(pair: Pair) -> LoadedPair:
    """Read a scan and its reference, and resample both to the network grid at 1 mm.

    Parameters
    ----------
    pair : Pair

    Returns
    -------
    LoadedPair
        The reference may have another grid in the same space.

    Raises
    ------
    InputImageError
        If one of them cannot be read.
    LabelSchemeError
        If the labels are not FreeSurfer's.
    FieldOfViewError
        If most of the reference lies outside the scan.
    """
    scan, reference = read_volume(pair.scan.path), read_label_map(pair.reference)
    prepared = prepare(scan.data, scan.affine, 1.0)
    shape, affine = prepared.image.shape, prepared.affine
    share = share_in_view(reference.data, reference.affine, shape, affine)
    if share < MIN_SHARE_IN_VIEW:
        raise FieldOfViewError(
            f'{pair.reference}: only {share:.0%} of it lies in the field of view of '
            f'{pair.scan.relative}; give a reference in the same space'
        )
    # Before resampling, so that errors are about the labels in the file.
    folded = fold_reference(reference.data, str(pair.reference))
    moved, folded = (
        resample_nearest(labels, reference.affine, shape, affine)
        for labels in (reference.data, folded)
    )
    image = rescale_intensities(prepared.image)
    return LoadedPair(pair.scan.relative, pair.scan.suffix, image, moved, folded, affine)


def load_pairs(pairs: Sequence[Pair]) -> Iterator[LoadedPair]:
    """Read pairs one by one; pairs that cannot be used raise a single error at the end.

    Parameters
    ----------
    pairs : sequence of Pair

    Yields
    ------
    LoadedPair

    Raises
    ------
    PairsError
        After the last one, if any could not be used.
    """
    refused = []
    for pair in pairs:
        try:
            yield load_pair(pair)
        except (InputImageError, LabelSchemeError, FieldOfViewError) as error:
            refused.append(str(error))
        else:
            logger.info('%s with %s', pair.scan.relative, pair.reference.name)
    if refused:
        more = f'; and {len(refused) - _NAMED} more' if len(refused) > _NAMED else ''
        raise PairsError(
            f'{len(refused)} of {len(pairs)} scans cannot be used: '
            f'{"; ".join(refused[:_NAMED])}{more}; correct them or choose others '
            '(--participant-label)'
        )
