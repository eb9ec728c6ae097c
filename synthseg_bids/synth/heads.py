"""Put the head of a donor around a brain.

The generator wants to know what surrounds a brain; maps of brains alone do not say. The tissue
outside of the skull's inside is taken from another person's head and fitted along rays from the
centre: on each ray the donor's inner surface of the skull is moved to the brain's, and what lies
outside of it moves along, so that there is neither a gap nor an overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..labels import CSF, generation_labels

#: Generation labels that tissues of BrainWeb's heads become: fat, muscle, skin, skull, vessels,
#: around fat, dura, marrow. Extra-cerebral labels have no names; what counts is that tissues
#: differ (skin is 511, skull 515 and soft tissue 507 in SynthSeg's own maps, by their place).
BRAINWEB = {4: 512, 5: 507, 6: 511, 7: 515, 8: 514, 9: 509, 10: 502, 11: 516}
#: Fluid, grey and white matter of BrainWeb's heads.
BRAINWEB_INSIDE = (1, 2, 3)
#: Rays: their number along the polar and the azimuth angle, and the blur between them.
RAYS = (90, 180)
RAY_BLUR = 1.0
#: Radius of the ball that closes the inside of a donor's skull and cuts off the spinal canal.
OPENING_MM = 9
#: How far heads reach beyond brains: to the left and right, behind and before, below and above.
MARGINS_MM = ((32, 32), (32, 40), (75, 24))


@dataclass(frozen=True)
class Donor:
    """A head to take tissue from, in RAS orientation with voxels of 1 mm.

    Attributes
    ----------
    name : str
    tissue : (x, y, z) int16 array
        Extra-cerebral generation labels; 0 in air and inside the skull.
    inside : (x, y, z) bool array
        What the skull encloses.
    """

    name: str
    tissue: np.ndarray
    inside: np.ndarray


def donor_from_labels(name: str, labels: np.ndarray) -> Donor:
    """Make a donor of a label map of a whole head: generation labels, or BrainWeb's tissues.

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
        If there is nothing outside of the brain.
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
    """Return what the skull encloses: without the spinal canal, vessels and dura filled in."""
    filled = closed(brain, OPENING_MM / 2)
    core = ndimage.distance_transform_edt(filled) > OPENING_MM
    parts, _ = ndimage.label(core)
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return filled & (ndimage.distance_transform_edt(parts != largest) <= OPENING_MM + 1)


def closed(mask: np.ndarray, radius: float, layer: float = 0.0) -> np.ndarray:
    """Close gaps of a mask with a ball, and add a layer around the result.

    Parameters
    ----------
    mask : (x, y, z) bool array
    radius, layer : float
        In voxels.

    Returns
    -------
    (x, y, z) bool array
        Holds the mask.
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
    """Return how far a mask reaches along each ray from a centre, divided by a scale."""
    edge = inside & ~ndimage.binary_erosion(inside)
    radius, polar, azimuth = _directions((np.argwhere(edge) - centre) / scale)
    found = np.zeros(RAYS)
    where = np.round(polar).astype(int), np.round(azimuth).astype(int) % RAYS[1]
    np.maximum.at(found, where, radius)
    # Rays that no voxel lies on, near the poles, take the nearest ray's.
    nearest = ndimage.distance_transform_edt(found == 0, return_indices=True)[1]
    return ndimage.gaussian_filter(found[tuple(nearest)], RAY_BLUR, mode=('nearest', 'wrap'))


def _at(radii: np.ndarray, polar: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Interpolate radii between rays."""
    wrapped = np.concatenate([radii, radii[:, :1]], 1)
    return ndimage.map_coordinates(wrapped, [polar, azimuth], order=1, mode='nearest')


def _centre_and_size(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a centre below the middle of the brain's top 100 mm, and the brain's width."""
    low, high = (np.argwhere(inside).min(0), np.argwhere(inside).max(0))
    size = high - low + 1.0
    scale = (size[0] + size[1]) / 2 / 155
    centre = (low + high) / 2.0
    # Spinal cords are cut anywhere, so that only the top is a landmark along z.
    centre[2] = high[2] - 75 * scale
    size[2] = 155 * scale
    return centre, size


def add_head(labels: np.ndarray, inside: np.ndarray, donor: Donor) -> np.ndarray:
    """Put a donor's head around a brain.

    Parameters
    ----------
    labels : (x, y, z) int16 array
        Generation labels of the brain and the fluid around it, on a grid with room for a head.
    inside : (x, y, z) bool array
        What the skull is to enclose; holds all labels.
    donor : Donor

    Returns
    -------
    (x, y, z) int16 array
        As given inside; fluid where the donor has brain but the skull's inside ends before.
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
