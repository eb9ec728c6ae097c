"""Parts of a step are computed side by side, each with one thread, as if one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from synthseg_bids.hardware.threads import map_in_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_parts_at_once_each_with_one_thread(two_threads):
    both = threading.Barrier(2, timeout=60)

    def compute(number: int, name: str) -> tuple[int, str, int, bool]:
        both.wait()
        return number, name, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        found = map_in_threads(compute, range(4), 'abcd')
    assert found == [(i, name, 1, True) for i, name in enumerate('abcd')]
    assert torch.get_num_threads() == 2


def test_an_error_ends_it_and_gives_the_threads_back(two_threads):
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda number: 1 / number, [1, 0])
    assert torch.get_num_threads() == 2


def test_with_one_thread_parts_are_computed_where_they_are_asked_for(two_threads):
    def inside(_: int) -> list[int]:
        return map_in_threads(lambda _: threading.get_ident(), range(3))

    for idents in map_in_threads(inside, range(2)):
        assert len(set(idents)) == 1
