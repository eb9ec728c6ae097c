"""Add the extra-cerebral tissue of a donor's head to a label map of a brain.

The generator needs labels of the tissue around the brain, which maps of brains alone lack. Tissue
outside the inner surface of the skull is taken from another person's head and fitted along rays
from the centre: on each ray the donor's tissue is shifted so that the inner surfaces coincide,
without gaps or overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..images.morphology import surface
from ..labels import CSF, generation_labels

#: Generation labels for tissues of BrainWeb's heads: fat, muscle, skin, skull, vessels, around
#: fat, dura, marrow. Extra-cerebral labels have no names and need only differ between tissues (by
#: position, skin is 511, skull 515 and soft tissue 507 in SynthSeg's own maps).
BRAINWEB = {4: 512, 5: 507, 6: 511, 7: 515, 8: 514, 9: 509, 10: 502, 11: 516}
#: CSF, grey and white matter of BrainWeb's heads.
BRAINWEB_INSIDE = (1, 2, 3)
#: Number of rays along the polar and the azimuth angle, and standard deviation of the blur of
#: their radii, in rays.
RAYS = (90, 180)
RAY_BLUR = 1.0
#: Radius of the ball that closes the inside of a donor's skull and cuts off the spinal canal.
OPENING_MM = 9
#: Extent of heads beyond brains: left and right, posterior and anterior, inferior and superior.
MARGINS_MM = ((32, 32), (32, 40), (75, 24))


@dataclass(frozen=True)
class Donor:
    """A head that donates extra-cerebral tissue, in RAS orientation with voxels of 1 mm.

    Attributes
    ----------
    name : str
    tissue : (x, y, z) int16 array
        Extra-cerebral generation labels; 0 in air and inside the skull.
    inside : (x, y, z) bool array
        Mask of the inside of the skull.
    """

    name: str
    tissue: np.ndarray
    inside: np.ndarray


def donor_from_labels(name: str, labels: np.ndarray) -> Donor:
    """Make a donor of a label map of a whole head, with generation labels or BrainWeb's tissues.

    Parameters
    ----------
    name : str
    labels : (x, y, z) integer array
        In RAS orientation with voxels of 1 mm.

    Returns
    -------
    Donor

    Raises
    ------
    ValueError
        If there is no brain, or no tissue outside of it.
    """
    if labels.max() <= max(BRAINWEB):
        lookup = np.zeros(int(labels.max()) + 1, dtype=np.int16)
        for code, label in BRAINWEB.items():
            lookup[code : code + 1] = label
        tissue, brain = lookup[labels], np.isin(labels, BRAINWEB_INSIDE)
    else:
        outside = [label.index for label in generation_labels() if label.extracerebral]
        tissue = np.where(np.isin(labels, outside), labels, 0).astype(np.int16)
        brain = (labels > 0) & (tissue == 0)
    if not tissue.any() or not brain.any():
        raise ValueError(f'{name}: no head around a brain; give label maps of whole heads')
    return Donor(name, tissue, _inside(brain))


def _inside(brain: np.ndarray) -> np.ndarray:
    """Return the inside of the skull, including vessels and dura, without the spinal canal."""
    filled = closed(brain, OPENING_MM / 2)
    core = ndimage.distance_transform_edt(filled) > OPENING_MM
    parts, _ = ndimage.label(core)
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return filled & (ndimage.distance_transform_edt(parts != largest) <= OPENING_MM + 1)


def closed(mask: np.ndarray, radius: float, layer: float = 0.0) -> np.ndarray:
    """Close a mask morphologically with a ball, and add a layer around the result.

    Parameters
    ----------
    mask : (x, y, z) bool array
    radius, layer : float
        In voxels.

    Returns
    -------
    (x, y, z) bool array
        Contains the mask.
    """
    pad = int(np.ceil(radius + layer)) + 1
    dilated = ndimage.distance_transform_edt(~np.pad(mask, pad)) <= radius + layer
    eroded = ndimage.distance_transform_edt(dilated) > radius
    return eroded[pad:-pad, pad:-pad, pad:-pad] | mask


def _directions(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return radius, and polar and azimuth angle in rays, of offsets ``(n, 3)``."""
    radius = np.sqrt((offsets**2).sum(1))
    polar = np.arccos(np.clip(offsets[:, 2] / np.maximum(radius, 1e-6), -1, 1))
    azimuth = np.arctan2(offsets[:, 1], offsets[:, 0]) % (2 * np.pi)
    return radius, polar / np.pi * (RAYS[0] - 1), azimuth / (2 * np.pi) * RAYS[1]


def _radii(inside: np.ndarray, centre: np.ndarray, scale: np.ndarray | float = 1) -> np.ndarray:
    """Return the extent of a mask along each ray from a centre, divided by a scale."""
    radius, polar, azimuth = _directions((np.argwhere(surface(inside)) - centre) / scale)
    found = np.zeros(RAYS)
    where = np.round(polar).astype(int), np.round(azimuth).astype(int) % RAYS[1]
    np.maximum.at(found, where, radius)
    # Rays near the poles without a voxel take the radius of the nearest ray.
    nearest = ndimage.distance_transform_edt(found == 0, return_indices=True)[1]
    return ndimage.gaussian_filter(found[tuple(nearest)], RAY_BLUR, mode=('nearest', 'wrap'))


def _at(radii: np.ndarray, polar: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Interpolate radii between rays."""
    wrapped = np.concatenate([radii, radii[:, :1]], 1)
    return ndimage.map_coordinates(wrapped, [polar, azimuth], order=1, mode='nearest')


def _centre_and_size(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre, 75 mm below the top for an average brain, and the size of a brain."""
    low, high = (np.argwhere(inside).min(0), np.argwhere(inside).max(0))
    size = high - low + 1.0
    scale = (size[0] + size[1]) / 2 / 155
    centre = (low + high) / 2.0
    # The spinal cord is cut at any height: only the top is a landmark along z.
    centre[2] = high[2] - 75 * scale
    size[2] = 155 * scale
    return centre, size


def add_head(labels: np.ndarray, inside: np.ndarray, donor: Donor) -> np.ndarray:
    """Add a donor's extra-cerebral tissue to a label map of a brain.

    Parameters
    ----------
    labels : (x, y, z) int16 array
        Generation labels of the brain and the CSF around it, on a grid with room for a head.
    inside : (x, y, z) bool array
        Mask of the inside of the skull; contains all labels.
    donor : Donor

    Returns
    -------
    (x, y, z) int16 array
        Not changed inside; CSF outside at positions that fall inside the donor's skull.
    """
    centre, size = _centre_and_size(inside)
    donor_centre, donor_size = _centre_and_size(donor.inside)
    scale = donor_size / size
    rays, theirs = _radii(inside, centre), _radii(donor.inside, donor_centre, scale)
    result = labels.copy()
    outside = np.argwhere(~inside)
    for part in np.array_split(outside, 8):
        radius, polar, azimuth = _directions(part - centre)
        unit = (part - centre) / np.maximum(radius, 1e-6)[:, None]
        reach = _at(theirs, polar, azimuth) + radius - _at(rays, polar, azimuth)
        place = np.round(unit * reach[:, None] * scale + donor_centre).astype(int)
        within = ((place >= 0) & (place < donor.tissue.shape)).all(1)
        place[~within] = 0
        at = tuple(place.T)
        value = np.where(donor.inside[at], CSF, donor.tissue[at])
        result[tuple(part.T)] = np.where(within, value, 0)
    return result
