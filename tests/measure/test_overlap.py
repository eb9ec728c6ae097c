"""Volumes and overlaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthseg_bids.images.geometry import Grid
from synthseg_bids.images.volume_io import read_label_map
from synthseg_bids.labels import LabelSchemeError, segmentation_labels
from synthseg_bids.measure.overlap import (
    MEAN_NAME,
    compare_to_reference,
    dice_per_label,
    paper_dice,
    resample_nearest,
    share_in_view,
    total_intracranial,
    volumes_from_labels,
)

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
AFFINE = np.array([[0, 0, -2, 30], [1.5, 0, 0, -20], [0, 1, 0, 10], [0, 0, 0, 1.0]])


@pytest.fixture
def labels(rng) -> np.ndarray:
    """Hold every segmentation label, each in many voxels."""
    return rng.choice([label.index for label in segmentation_labels()], size=(10, 12, 14))


def test_volumes_count_voxels(labels):
    volumes = volumes_from_labels(labels, AFFINE)
    assert sum(n for n, _ in volumes.values()) == labels.size
    assert volumes[17] == ((labels == 17).sum(), (labels == 17).sum() * 3.0)
    assert total_intracranial(volumes) == pytest.approx((labels > 0).sum() * 3)


def test_absent_labels_have_no_volume():
    volumes = volumes_from_labels(np.full((2, 2, 2), 85), AFFINE)
    assert len(volumes) == 34
    assert volumes[85] == (8, 24.0)
    assert volumes[0] == volumes[54] == (0, 0.0)
    assert list(volumes) == sorted(volumes)


def test_dice_agrees_with_its_definition(labels, rng):
    other = rng.permutation(labels.ravel()).reshape(labels.shape)
    for label, dice in dice_per_label(labels, other, [2, 24, 60]).items():
        a, b = labels == label, other == label
        assert dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_dice_of_absent_labels():
    one, none = np.array([17, 0]), np.array([0, 0])
    dice = dice_per_label(one, none, [17, 53])
    assert dice[17] == 0
    assert np.isnan(dice[53])
    with pytest.raises(ValueError, match='shapes differ'):
        dice_per_label(one, one[:1], [17])


def test_paper_dice_averages_sides_then_structures(labels):
    perfect = paper_dice(labels, labels)
    assert len(perfect) == 13
    assert set(perfect.values()) == {1.0}
    damaged = np.where(labels == 53, 0, labels)
    found = paper_dice(damaged, labels)
    assert found['hippocampus'] == 0.5
    assert found['mean'] == pytest.approx((11 + 0.5) / 12)


def test_paper_dice_of_a_partial_reference():
    found = paper_dice(np.array([16, 0]), np.array([16, 0]))
    assert found['brainstem'] == found['mean'] == 1
    assert np.isnan(found['thalamus'])
    assert np.isnan(paper_dice(np.array([0]), np.array([0]))['mean'])


def test_nearest_undoes_swaps_and_flips(labels):
    turned = np.ascontiguousarray(labels.transpose(2, 0, 1)[::-1, :, ::-1])
    to_old = np.array([[0, 1, 0, 0], [0, 0, -1, 11], [-1, 0, 0, 13], [0, 0, 0, 1.0]])
    found = resample_nearest(turned, AFFINE @ to_old, Grid(labels.shape, AFFINE))
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == labels.dtype


@pytest.mark.parametrize('factor', [2, 3])
def test_nearest_refines_without_a_shift(labels, factor):
    fine = np.diag([1 / factor] * 3 + [1.0])
    fine[:3, 3] = -(1 - 1 / factor) / 2
    shape = tuple(n * factor for n in labels.shape)
    expected = np.kron(labels, np.ones((factor,) * 3, dtype=int))
    np.testing.assert_array_equal(
        resample_nearest(labels, AFFINE, Grid(shape, AFFINE @ fine)), expected
    )


def test_nearest_is_background_outside(labels):
    shift = np.eye(4)
    shift[0, 3] = 4
    found = resample_nearest(labels + 1, AFFINE, Grid(labels.shape, AFFINE @ shift))
    np.testing.assert_array_equal(found[:6], labels[4:] + 1)
    assert not found[6:].any()


def test_nearest_follows_oblique_grids():
    """A ball defined in mm is the same ball on a tilted grid."""
    angle = np.deg2rad(30)
    tilted = np.eye(4)
    tilted[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted[:3, 3] = (3, -7, 1)

    def ball(affine):
        positions = affine[:3, :3] @ np.indices((24, 24, 24)).reshape(3, -1) + affine[:3, 3:]
        return ((positions.T - (10, 9, 11)) ** 2).sum(1).reshape(24, 24, 24) < 36

    found = resample_nearest(ball(np.eye(4)).astype(int), np.eye(4), Grid((24, 24, 24), tilted))
    expected = ball(tilted)
    assert expected.sum() > 800
    assert dice_per_label(found, expected.astype(int), [1])[1] > 0.95


def test_comparison_uses_the_grid_of_the_reference(labels):
    fine = np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = -0.25
    reference = np.kron(labels, np.ones((2, 2, 2), dtype=int))
    reference[reference == 3] = 1012
    rows = compare_to_reference(labels, AFFINE, reference, AFFINE @ fine)
    assert [row.get('index') for row in rows[:-1]] == [
        label.index for label in segmentation_labels()[1:]
    ]
    assert all(row['dice'] == 1 for row in rows)
    cortex = rows[1]
    assert cortex['name'] == 'Left-Cerebral-Cortex'
    assert cortex['volume_mm3'] == cortex['reference_volume_mm3'] == (labels == 3).sum() * 3
    assert rows[-1] == {'name': MEAN_NAME, 'dice': 1.0}


def test_comparison_of_absent_structures(labels):
    reference = np.where(labels == 26, 0, labels)
    rows = {row['name']: row for row in compare_to_reference(labels, AFFINE, reference, AFFINE)}
    assert rows['Left-Accumbens-area']['dice'] == 0
    rows = {row['name']: row for row in compare_to_reference(reference, AFFINE, reference, AFFINE)}
    assert np.isnan(rows['Left-Accumbens-area']['dice'])


def test_what_a_reference_does_not_distinguish_is_not_compared(labels):
    whole = np.select([labels == 7, labels == 46], [8, 47], labels)
    rows = {row['name']: row for row in compare_to_reference(labels, AFFINE, whole, AFFINE)}
    cortex, white = rows['Left-Cerebellum-Cortex'], rows['Left-Cerebellum-White-Matter']
    assert cortex['dice'] == rows[MEAN_NAME]['dice'] == 1
    assert cortex['volume_mm3'] == np.isin(labels, (7, 8)).sum() * 3
    assert np.isnan(white['dice'])
    assert white['volume_mm3'] == 0


def test_lesions_are_compared_as_white_matter(labels):
    ours = labels.copy()
    ours[labels == 2] = 77
    rows = compare_to_reference(ours, AFFINE, np.where(labels == 2, 41, labels), AFFINE)
    assert rows[0]['volume_mm3'] == 0
    assert all(row['dice'] == 1 for row in rows[1:])


def test_comparison_names_the_reference_it_refuses(labels):
    with pytest.raises(LabelSchemeError, match=r'^ref\.nii: '):
        compare_to_reference(labels, AFFINE, labels + 500, AFFINE, 'ref.nii')


@pytest.mark.skipif(not SHARED.exists(), reason='needs ../shared/data')
@pytest.mark.parametrize('subject', ['nv', 'vxm', 'chris', 'mni'])
def test_real_references_can_be_folded(subject):
    (path,) = (SHARED / 'bids/derivatives/reference').glob(f'sub-{subject}/anat/*.nii.gz')
    reference = read_label_map(path)
    # Every second voxel, for speed.
    data, affine = reference.data[::2, ::2, ::2], reference.affine @ np.diag([2, 2, 2, 1])
    rows = compare_to_reference(np.zeros_like(data), affine, data, affine, str(path))
    volumes = {row['name']: row.get('reference_volume_mm3', 0) for row in rows}
    assert 800e3 < sum(volumes.values()) < 2200e3
    assert 1e3 < volumes['Left-Hippocampus'] < 8e3


def test_share_in_view():
    reference = np.ones((4, 4, 4), int)
    shifted = np.eye(4)
    shifted[0, 3] = 2
    grid = Grid((4, 4, 4), np.eye(4))
    assert share_in_view(reference, np.eye(4), grid) == 1
    assert share_in_view(reference, shifted, grid) == 0.5
    assert share_in_view(0 * reference, np.eye(4), grid) == 0


def test_paper_dice_by_hand():
    # left and right white matter, left cortex
    reference = np.array([2, 2, 41, 41, 3, 0])
    segmentation = np.array([2, 0, 41, 41, 0, 0])
    assert paper_dice(segmentation, reference)['mean'] == pytest.approx(((2 / 3 + 1) / 2 + 0) / 2)
