"""Which connections of the listener give way: properties over whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.http_server import Connections
from uploader.http_server.server import LEAST_IDLE, MOST_IDLE, most_idle

MOST = 6
STEPS = st.lists(st.tuples(st.sampled_from(["come", "show", "begin", "end", "go"]), st.integers(0, 40)), max_size=200)


@given(STEPS)
def test_who_gives_way(steps: list[tuple[str, int]]) -> None:
    """Never more idle ones than may be; who is answered or has just come stays, and the known stay up to half."""
    callers: Connections[int] = Connections(MOST)
    come, answered, known, there = 0, set(), set(), set()
    for step, which in steps:
        number = come - which
        gone = None
        if step == "come":
            come += 1
            there.add(come)
            gone = callers.come(come)
            assert gone != come
        elif step == "show":
            callers.show_token(number)
            known |= {number} & there
        elif step == "begin":
            callers.begin_answer(number)
            answered |= {number} & known & there
        elif step == "end":
            gone = callers.end_answer(number)
            answered.discard(number)
        else:
            callers.go(number)
            there.discard(number)
            answered.discard(number)
        assert gone not in answered
        if gone is not None:
            idle_known = len((known & there) - answered)
            assert (gone in known) == (idle_known > MOST // 2)
            there.discard(gone)
        assert set(callers.idle) == there - answered
        assert len(callers.idle) <= MOST
        assert len(callers) == len(there)


def test_the_oldest_stranger_goes_first() -> None:
    """A flood of strangers drives out strangers, in their order, and nobody who has shown a token."""
    callers: Connections[int] = Connections(MOST)
    assert [callers.come(number) for number in range(MOST)] == [None] * MOST
    for number in (0, 2):
        callers.show_token(number)
    assert [callers.come(number) for number in range(100, 110)] == [1, 3, 4, 5, 100, 101, 102, 103, 104, 105]


def test_who_was_answered_last_stays_longest() -> None:
    """Of the known ones the one that has been idle longest goes, and only while they are more than half."""
    callers: Connections[int] = Connections(MOST)
    for number in range(MOST):
        callers.come(number)
        callers.show_token(number)
    callers.begin_answer(0)
    assert callers.end_answer(0) is None
    assert [callers.come(number) for number in range(10, 16)] == [1, 2, 3, 10, 11, 12]


@pytest.mark.parametrize(
    ("open_files", "idle"),
    [(-1, MOST_IDLE), (1_000_000, MOST_IDLE), (1024, 128), (256, 32), (64, LEAST_IDLE), (0, LEAST_IDLE)],
)
def test_how_many_may_be_idle(open_files: int, idle: int) -> None:
    """A share of the files that the process may have open: the run needs the others."""
    assert most_idle(open_files) == idle
