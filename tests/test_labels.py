"""The label tables agree with each other and with the references that people have."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.labels import (
    PAPER_STRUCTURES,
    LabelSchemeError,
    fold_reference,
    generation_indices,
    generation_labels,
    mirror_channels,
    segmentation_labels,
)

#: From the published label list of SynthSeg 2.0.
CHANNELS = [
    0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 26, 28,
    41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60,
]  # fmt: skip


def test_channels_ascend_from_background():
    labels = segmentation_labels()
    assert [label.index for label in labels] == CHANNELS
    assert [label.channel for label in labels] == list(range(33))


def test_left_and_right_mirror_each_other():
    by_index = {label.index: label for label in generation_labels()}
    for label in by_index.values():
        twin = by_index[label.mirror]
        assert twin.mirror == label.index
        assert {label.side, twin.side} in ({'left', 'right'}, {'none'})
        assert by_index[twin.target].mirror == label.target
    sides = [label.side for label in generation_labels()]
    assert sides == sorted(sides, key=['none', 'left', 'right'].index)


def test_mirrored_channels():
    mirror = mirror_channels()
    np.testing.assert_array_equal(mirror[mirror], np.arange(33))
    names = [label.name for label in segmentation_labels()]
    for channel, twin in enumerate(mirror):
        assert names[twin] == names[channel].translate({}).replace('Left', 'Right') or names[
            channel
        ] == names[twin].replace('Left', 'Right')


def test_every_generation_label_becomes_a_segmentation_label():
    assert {label.target for label in generation_labels()} == set(CHANNELS)
    assert all(label.target == label.index for label in segmentation_labels())
    assert all(label.target == 0 for label in generation_labels() if label.extracerebral)


def test_topology_groups_hold_one_side_each():
    groups: dict[int, set[str]] = {}
    for label in segmentation_labels():
        if label.topology_group:
            groups.setdefault(label.topology_group, set()).add(label.side)
    assert sorted(groups) == list(range(1, 24))
    assert all(len(sides) == 1 for sides in groups.values())


def test_paper_structures_are_segmented():
    assert len(PAPER_STRUCTURES) == 12
    assert {label for sides in PAPER_STRUCTURES.values() for label in sides} <= set(CHANNELS)


def test_generation_indices_look_up_rows():
    rows = generation_indices(np.array([[[0, 530, 60]]]))
    labels = generation_labels()
    assert [labels[row].index for row in rows.ravel()] == [0, 530, 60]


@pytest.mark.parametrize('value', [1, -1, 9999])
def test_generation_indices_refuse_unknown_labels(value):
    with pytest.raises(LabelSchemeError, match=rf'a\.nii: labels \[{value}\]'):
        generation_indices(np.array([[[0, value, 2]]]), 'a.nii')


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        (1003, 3), (2035, 42), (3001, 2), (4035, 41), (11174, 3), (12101, 42),
        (31, 4), (63, 43), (78, 2), (79, 41), (85, 0), (258, 0), (165, 0), (30, 0), (24, 24),
        (25, 2), (57, 41), (5001, 2), (17, 17),
    ],
)  # fmt: skip
def test_fold_reference_translates(theirs, ours):
    folded = fold_reference(np.array([[[2, theirs]]]))
    assert folded.dtype == np.int16
    assert folded.ravel().tolist() == [2, ours]


def test_fold_reference_refuses_tissue_classes():
    with pytest.raises(LabelSchemeError, match='look like tissue classes'):
        fold_reference(np.array([[[0, 1, 2, 3]]]))
    with pytest.raises(LabelSchemeError, match='look like tissue classes'):
        fold_reference(np.array([[[0, 2, 3]]]))


def test_fold_reference_gives_the_midline_to_the_nearest_side():
    row = np.array([41, 41, 251, 77, 251, 2, 2, 0])
    reference = np.zeros((1, 8, 1), dtype=int)
    reference[0, :, 0] = row
    assert fold_reference(reference).ravel().tolist() == [41, 41, 41, 2, 2, 2, 2, 0]


def test_fold_reference_gives_the_vermis_to_the_cerebellum():
    reference = np.array([[[47, 172, 41, 2, 172, 8]]])
    assert fold_reference(reference).ravel().tolist() == [47, 47, 41, 2, 8, 8]


def test_fold_reference_keeps_segmentation_labels():
    labels = np.array(CHANNELS).reshape(3, 11, 1)
    np.testing.assert_array_equal(fold_reference(labels), labels)


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ([0, 1, 2, 3, 102, 150, 208], 'GIF or Neuromorphometrics'),
        ([0, 1, 3], 'tissue classes'),
        ([0, 17, 53], 'no cerebral white matter'),
        ([0, 2, 777], r'labels \[777\] are not FreeSurfer labels'),
    ],
)
def test_fold_reference_refuses_other_schemes(labels, message):
    with pytest.raises(LabelSchemeError, match=message) as caught:
        fold_reference(np.array(labels).reshape(1, -1, 1), 'ref.nii.gz')
    assert str(caught.value).startswith('ref.nii.gz: ')
    assert '\n' not in str(caught.value)
