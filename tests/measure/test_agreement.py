"""Agreement of two label maps of one head."""

from __future__ import annotations

import numpy as np
import pytest
from grids import oriented_affine

from synthseg_bids.images.geometry import Grid
from synthseg_bids.labels import LESION, LESION_TISSUES
from synthseg_bids.measure.agreement import AlignmentError, compare, kabsch, outline
from synthseg_bids.measure.overlap import paper_dice, resample_nearest

STRUCTURES = (2, 3, 4, 7, 8, 10, 11, 12, 16, 17, 18, 41, 42, 43, 46, 47, 49, 50, 51, 53, 54)


def head(shape=(60, 66, 54), spacing=2.0) -> tuple[np.ndarray, np.ndarray]:
    """Scatter ellipsoids of all sizes, none of them where its mirror image is."""
    rng = np.random.default_rng(3)
    grid = np.indices(shape) * spacing
    extent = (np.array(shape) - 1) * spacing
    labels = np.zeros(shape, np.int16)
    for size, label in zip(np.linspace(30, 8, len(STRUCTURES)), STRUCTURES, strict=True):
        centre = extent / 2 + rng.uniform(-0.25, 0.25, 3) * extent
        radii = size * rng.uniform(0.5, 1, 3)
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
        labels[inside < 1] = label
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -extent / 2
    return labels, affine


def rotation(degrees: float, axis=(1, 2, 3)) -> np.ndarray:
    """Return the matrix of Rodrigues' formula."""
    angle = np.deg2rad(degrees)
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def test_kabsch_finds_the_motion(rng):
    points = rng.normal(size=(8, 3))
    motion = kabsch(points, points @ rotation(70).T + [1, 2, 3], rng.random(8))
    assert motion[:3, :3] == pytest.approx(rotation(70))
    assert motion[:3, 3] == pytest.approx([1, 2, 3])


def test_kabsch_never_reflects(rng):
    points = rng.normal(size=(8, 3)) * [5, 3, 1]
    points -= points.mean(axis=0)
    for reflected in (points * [1, 1, -1], points * [-1, 1, 1], -points):
        turned = kabsch(points, reflected, np.ones(8))[:3, :3]
        assert np.linalg.det(turned) == pytest.approx(1)
        assert turned @ turned.T == pytest.approx(np.eye(3))
    # Of the rotations, the best one: no small turn of it is better.
    turned = kabsch(points, -points, np.ones(8))
    off = [((points @ (rotation(d, a) @ turned[:3, :3]).T + points) ** 2).sum()
           for a in np.eye(3) for d in (-1, 0, 1)]  # fmt: skip
    assert min(off) == pytest.approx(off[1])


def test_kabsch_works_in_a_plane(rng):
    points = rng.normal(size=(6, 3)) * [1, 1, 0]
    motion = kabsch(points, points @ rotation(40).T, np.ones(6))
    assert motion[:3, :3] == pytest.approx(rotation(40))


def test_weights_decide(rng):
    points = rng.normal(size=(6, 3)) * 10
    moved = points + 5
    moved[0] += 100
    weights = np.array([1e-9, 1, 1, 1, 1, 1])
    assert kabsch(points, moved, weights)[:3, 3] == pytest.approx([5, 5, 5], abs=1e-4)


@pytest.mark.parametrize('codes', ['RAS', 'LPS', 'PSR', 'SAL'])
def test_a_head_that_moved_agrees_with_itself(codes):
    labels, affine = head()
    # A scan of the same head, turned by 25 degrees, on slices of another orientation.
    motion = np.eye(4)
    motion[:3, :3] = rotation(25)
    motion[:3, 3] = (12, -7, 30)
    other_affine = oriented_affine(codes, (1.5, 1.5, 2.5))
    shape = (140, 130, 110)
    centre = np.append((np.array(shape) - 1) / 2, 1)
    other_affine[:3, 3] += motion[:3, 3] - (other_affine @ centre)[:3]
    other = resample_nearest(labels, motion @ affine, Grid(shape, other_affine))
    found = compare(outline(labels, affine), outline(other, other_affine))
    # Looked up twice, what is left of small structures loses some of its border.
    assert found.mean_dice > 0.88
    assert found.rotation_degrees == pytest.approx(25, abs=0.3)
    assert found.shift_mm == pytest.approx(np.linalg.norm([12, -7, 30]), abs=8)
    assert found.residual_mm < 0.3
    assert found.volumes_2_mm3[3] == pytest.approx(found.volumes_1_mm3[3], rel=0.02)
    back = compare(outline(other, other_affine), outline(labels, affine))
    assert back.mean_dice == pytest.approx(found.mean_dice, abs=0.01)
    # The label maps as they lie do not overlap nearly as well.
    as_is = resample_nearest(other, other_affine, Grid(labels.shape, affine))
    assert paper_dice(as_is, labels)['mean'] < 0.5


def test_what_differs_is_seen():
    labels, affine = head()
    other = labels.copy()
    other[labels == 3] = 0
    swapped = np.where(labels == 17, 53, labels)
    one = outline(labels, affine)
    found = compare(one, outline(other, affine))
    assert (found.dice[3], found.dice[2], found.dice[14]) == (
        0, pytest.approx(1, abs=0.02), pytest.approx(float('nan'), nan_ok=True)
    )  # fmt: skip
    assert (found.volumes_1_mm3[3] > 0, found.volumes_2_mm3[3]) == (True, 0)
    assert compare(one, outline(swapped, affine)).dice[17] == 0


def test_fluid_outside_the_brain_does_not_move_it():
    labels, affine = head()
    spine = labels.copy()
    spine[:, :, :5][labels[:, :, :5] == 0] = 24
    found = compare(outline(labels, affine), outline(spine, affine))
    assert found.rotation_degrees == pytest.approx(0, abs=1e-4)
    # But it counts: the grid holds both maps.
    assert found.dice[24] == 0
    assert compare(outline(spine, affine), outline(spine, affine)).dice[24] == 1


def test_too_little_in_common():
    labels, affine = head()
    few = outline(np.where(np.isin(labels, (2, 3, 4)), labels, 0), affine)
    with pytest.raises(AlignmentError, match='3 structures'):
        compare(few, outline(labels, affine))
    empty = outline(0 * labels, affine)
    with pytest.raises(AlignmentError, match='0 structures'):
        compare(empty, empty)


def test_lesions_that_only_one_map_has_are_what_they_lie_in():
    labels, affine = head()
    lesions = labels.copy()
    for tissue in LESION_TISSUES:
        middle = np.argwhere(labels == tissue).mean(axis=0).round().astype(int)
        part = tuple(slice(n - 1, n + 2) for n in middle)
        lesions[part][labels[part] == tissue] = LESION
    assert (lesions == LESION).sum() > 50
    plain, with_lesions = outline(labels, affine), outline(lesions, affine)
    found = compare(plain, with_lesions)
    assert {value for value in found.dice.values() if not np.isnan(value)} == {1}
    assert LESION not in found.dice
    assert found.volumes_1_mm3[2] == found.volumes_2_mm3[2] == 8 * (labels == 2).sum()
    assert found.volumes_2_mm3[LESION] == 8 * (lesions == LESION).sum()
    assert compare(with_lesions, with_lesions).dice[LESION] == 1


def test_lesions_without_white_matter():
    labels, affine = head()
    only = np.where(np.isin(labels, LESION_TISSUES), LESION, labels)
    assert compare(outline(only, affine), outline(only, affine)).dice[LESION] == 1
