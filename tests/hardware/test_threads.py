"""Parts of a step are computed side by side, each with one thread, as if one after the other."""

from __future__ import annotations

import os
import threading
import time
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


def test_threads_stay_since_a_process_must_not_be_forked_while_one_ends(two_threads):
    both = threading.Barrier(2, timeout=60)

    def compute(_: int) -> int:
        both.wait()
        return threading.get_ident()

    assert set(map_in_threads(compute, range(2))) == set(map_in_threads(compute, range(2)))


def test_all_parts_have_ended_when_one_fails(two_threads):
    began, ended = threading.Event(), threading.Event()

    def compute(number: int) -> None:
        if number:
            began.wait(60)
            raise KeyError(number)
        began.set()
        time.sleep(0.2)
        ended.set()

    with pytest.raises(KeyError):
        map_in_threads(compute, range(2))
    assert ended.is_set()


def test_a_forked_process_has_threads_of_its_own(two_threads):
    map_in_threads(abs, range(2))
    child = os.fork()
    if not child:
        code = 1
        try:
            code = sum(map_in_threads(abs, range(4)))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
