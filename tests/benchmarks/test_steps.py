"""Bytes, operations and seconds of steps inside of steps count once."""

from __future__ import annotations

import time

import numpy as np
import steps
import torch


def test_views_move_nothing():
    x = torch.zeros(4, 5)
    with steps.Traffic() as traffic:
        assert x.T[3:].view(1, 2, 4).shape == (1, 2, 4)
    assert traffic.n_bytes == 0
    with steps.Traffic() as traffic:
        _ = x + 1
    assert traffic.n_bytes == 2 * x.nbytes


def test_places_of_a_volume_count_for_themselves():
    volume, places = torch.zeros(1000), torch.tensor([3, 5])
    with steps.Traffic() as traffic:
        found = volume.index_select(0, places)
    assert traffic.n_bytes == places.nbytes + 2 * found.nbytes
    with steps.Traffic() as traffic:
        volume.index_add_(0, places, found)
    assert traffic.n_bytes == places.nbytes + 3 * found.nbytes


def test_inner_steps_count_for_themselves():
    work: dict[str, tuple[float, float]] = {}
    x = torch.zeros(8, 8)
    inner = steps.counted(lambda: x @ x, 'inner', work)
    steps.counted(lambda: (inner(), x @ x, x + x), 'outer', work)()
    assert work['inner'] == (3 * x.nbytes, 2 * 8**3)
    assert work['outer'] == (6 * x.nbytes, 2 * 8**3)

    def spin(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    seconds: dict[str, np.ndarray] = {}
    inside = steps.timed(lambda: spin(0.05), 'inner', seconds)
    steps.timed(lambda: (inside(), spin(0.01)), 'outer', seconds)()
    assert 0.05 <= seconds['inner'][0] < 0.08
    assert 0.01 <= seconds['outer'][0] < 0.04
    for cpu, clock in seconds.values():
        assert cpu <= clock + 0.01


def test_convolutions_of_onednn_count():
    work: dict[str, tuple[float, float]] = {}
    x, weight, ones = torch.zeros(1, 2, 4, 4, 4), torch.zeros(3, 2, 3, 3, 3), (1, 1, 1)
    convolve = torch.mkldnn_convolution
    steps.counted(lambda: convolve(x, weight, None, ones, ones, ones, 1), 'it', work)()
    assert work['it'][1] == 2 * 27 * 2 * 3 * 4**3


def test_every_step_exists():
    for module, name, _ in steps.STEPS:
        assert callable(getattr(module, name))
    titles = [title for _, _, title in steps.STEPS]
    assert len(set(titles)) == len(titles)
