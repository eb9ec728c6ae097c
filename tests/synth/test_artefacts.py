"""Ghosts and truncated fields of view."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_scans import PLAIN, ROWS, SIZE

from synthseg_bids.synth.artefacts import (
    ArtefactConfig,
    Artefacts,
    Ghost,
    add_artefacts,
    draw_artefacts,
)
from synthseg_bids.synth.generator import apply
from synthseg_bids.synth.parameters import draw

WHOLE = (slice(0, SIZE[0]), slice(0, SIZE[1]), slice(0, SIZE[2]))


def make(labels, artefacts, seed=0):
    config = replace(PLAIN, artefacts=artefacts)
    parameters = draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))
    # Outside of the head is nothing.
    intensities = parameters.intensities
    intensities.means[0] = intensities.stds[0] = 0
    return apply(labels, parameters, config)


def test_what_was_not_scanned_is_background():
    labels = torch.full(SIZE, ROWS[2], dtype=torch.uint8)
    config = ArtefactConfig(ghost_probability=0, cut_probability=1, cut_share=(0.25, 0.25))
    ends = set()
    for seed in range(40):
        image, target = make(labels, config, seed)
        seen = target != 0
        assert not image[~seen].any()
        assert image[seen].mean() > 0.2
        box = [(int(where.min()), int(where.max())) for where in seen.nonzero().T]
        cut = [axis for axis, (low, high) in enumerate(box) if high - low + 1 < SIZE[axis]]
        assert len(cut) == 1
        low, high = box[cut[0]]
        assert high - low + 1 == SIZE[cut[0]] * 3 // 4
        assert int(seen.sum()) == labels.numel() * 3 // 4
        ends.add((cut[0], low > 0))
    assert len(ends) == 6


@pytest.mark.parametrize('axis', range(3))
@pytest.mark.parametrize('part', [2, 3, 4])
def test_a_ghost_is_a_faint_copy_moved_along_an_axis(axis, part):
    image, target = torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.uint8)
    place = [5, 6, 7]
    image[tuple(place)], target[tuple(place)] = 10, 3
    add_artefacts(image, target, Artefacts(Ghost(0.1, axis, part), WHOLE))
    assert image[tuple(place)] == 10
    place[axis] += SIZE[axis] // part
    assert image[tuple(place)] == 1
    assert image.count_nonzero() == 2
    # What is seen there is no brain.
    assert target.count_nonzero() == 1


def test_an_image_has_ghosts_and_its_target_none():
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[:12, :10, :8] = ROWS[2]
    config = ArtefactConfig(ghost_probability=1, ghost_share=(0.3, 0.3), cut_probability=0)
    for seed in range(5):
        (with_them, target), (without, same) = (
            make(labels, one, seed) for one in (config, replace(config, ghost_probability=0))
        )
        assert torch.equal(target, same)
        outside = labels == 0
        assert not without[outside].any()
        assert (with_them[outside] > 0.1).sum() == (~outside).sum()


def test_artefacts_are_as_frequent_as_asked():
    source = torch.Generator().manual_seed(1)
    config = ArtefactConfig(ghost_probability=0.2, cut_probability=0.4, cut_share=(0.2, 0.3))
    drawn = [draw_artefacts(config, SIZE, source) for _ in range(300)]
    assert 40 <= sum(one.ghost is not None for one in drawn) <= 85
    assert 90 <= sum(one.cut != WHOLE for one in drawn) <= 150
    ghosts = [one.ghost for one in drawn if one.ghost]
    assert {ghost.part for ghost in ghosts} == {2, 3, 4}
    assert {ghost.axis for ghost in ghosts} == {0, 1, 2}


def test_the_same_draw_gives_the_same_image():
    labels = torch.full(SIZE, ROWS[2], dtype=torch.uint8)
    config = ArtefactConfig(ghost_probability=1, cut_probability=1)
    first, second = (make(labels, config, 7) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
