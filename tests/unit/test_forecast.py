"""The forecast of a batch: bounds that every schedule keeps, and the order of the claim."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.forecast import Lanes, forecast_batch, pace_of

MANY = 1e9
"""So many uploads a second that their rate is no bound."""
ITEMS = st.lists(st.tuples(st.integers(0, 5), st.floats(0.1, 100.0)), min_size=1, max_size=30)


def lanes_of(items: list[tuple[int, float]]) -> Lanes:
    """Return the lanes of items of these conversations, whose jobs take so many seconds."""
    lanes = Lanes()
    for conversation, seconds in items:
        lanes.add(conversation, 1, seconds)
    return lanes


@pytest.mark.parametrize(
    ("items", "limit", "expected"),
    [
        ([(1, 10.0)], 1, 10.0),
        ([(1, 10.0), (1, 5.0)], 5, 15.0),  # one lane: one after the other
        ([(1, 10.0), (2, 5.0)], 5, 10.0),  # two lanes: side by side
        ([(1, 10.0), (2, 5.0)], 1, 15.0),  # no room for both
        ([(1, 1.0), (2, 4.0), (3, 4.0), (1, 6.0)], 2, 10.0),  # 3 stands before the rest of 1, and goes first
    ],
)
def test_a_schedule_by_hand(items: list[tuple[int, float]], limit: int, expected: float) -> None:
    """A lane has one job at a time; of the ready lanes the one whose item stands first in the manifest goes."""
    assert forecast_batch(lanes_of(items), limit, MANY).seconds == pytest.approx(expected)


def test_the_rate_bounds_how_fast_uploads_begin() -> None:
    """With ten lanes and room for all, the last begins nine intervals after the first."""
    assert forecast_batch(
        lanes_of([(conversation, 1.0) for conversation in range(10)]), 100, 2.0
    ).seconds == pytest.approx(5.5)


@pytest.mark.parametrize(
    ("items", "limit", "rate", "busy", "causes"),
    [
        ([(1, 10.0)], 1, MANY, None, {}),  # all begins at once
        ([(1, 10.0), (1, 10.0), (2, 5.0)], 2, MANY, 0.75, {"lanes": 0.25}),  # 2 has no more, 1 is one after the other
        ([(1, 10.0), (2, 10.0), (3, 10.0)], 2, MANY, 1.0, {}),  # 3 waits for a slot
        ([(1, 10.0), (2, 10.0), (3, 10.0)], 3, 0.5, 0.5, {"rate": 0.5}),  # 0, 2 and 4 s
    ],
)
def test_it_foresees_what_holds_the_slots_back(
    items: list[tuple[int, float]], limit: int, rate: float, busy: float | None, causes: dict[str, float]
) -> None:
    """Too few conversations that may go, or a person's rate; until the last item begins, all else is busy."""
    found = forecast_batch(lanes_of(items), limit, rate).held_back
    if busy is None:
        assert found is None
        return
    assert found is not None
    assert found.busy == pytest.approx(busy, abs=1e-6)
    assert {cause: share for cause, share in found.causes.items() if share > 1e-6} == pytest.approx(causes)


@given(items=ITEMS, limit=st.integers(1, 8))
def test_it_keeps_the_bounds_of_every_schedule(items: list[tuple[int, float]], limit: int) -> None:
    """The makespan is at least the longest lane and the work over the limit, at most their sum, or all work."""
    lanes = lanes_of(items)
    total = sum(seconds for _, seconds in items)
    longest = lanes.longest()[1]
    found = forecast_batch(lanes, limit, MANY)
    assert found.begun == len(items)
    assert max(total / limit, longest) <= found.seconds * (1 + 1e-9)
    assert found.seconds <= total * (1 + 1e-9) + 1e-6
    assert found.begun_end_seconds == pytest.approx(found.seconds)


@given(items=ITEMS, limit=st.integers(1, 8), times=st.lists(st.floats(0.0, 500.0), min_size=2, max_size=5))
def test_more_time_begins_no_less(items: list[tuple[int, float]], limit: int, times: list[float]) -> None:
    """The number of items that begin within a time grows with the time, up to all of them."""
    begun = [forecast_batch(lanes_of(items), limit, MANY, time).begun for time in sorted(times)]
    assert all(before <= after for before, after in pairwise(begun))
    assert begun[-1] <= len(items)


def test_a_file_of_unknown_length_counts_by_its_size() -> None:
    """An unknown length is estimated by the bytes a second of the other items, else by the assumed ones."""
    lanes = Lanes()
    lanes.add(1, 1000, 10.0)
    lanes.add(2, 500, None)
    lanes.set_job_seconds(2.0, 1.0)
    assert (list(lanes.seconds), lanes.unknown_lengths) == ([20.0, 10.0], 1)
    alone = Lanes()
    alone.add(1, 500, None)
    alone.set_job_seconds(1.0, 50.0)
    assert list(alone.seconds) == [10.0]


def test_what_jobs_take_is_what_most_of_them_took() -> None:
    """The pace is a median: an interrupted night does not change it by much."""
    assert pace_of([(5.0, 10.0), (6.0, 10.0), (90000.0, 10.0)]) == pytest.approx(0.6)
    assert pace_of([(5.0, 0.0)]) is None
    assert pace_of([]) is None


@pytest.mark.parametrize(
    ("live", "items", "limit", "expected"),
    [
        pytest.param([(1, 10.0, 4.0)], [(1, 5.0)], 2, 11.0, id="what follows in its conversation waits"),
        pytest.param([(1, 10.0, 4.0)], [(2, 5.0)], 1, 11.0, id="it holds its slot"),
        pytest.param([(1, 10.0, 4.0)], [(2, 5.0)], 2, 5.0, id="nobody waits for it where there is room"),
        pytest.param([(1, 10.0, 60.0)], [(1, 5.0)], 1, 5.0, id="it has ended meanwhile"),
        pytest.param([(1, 8.0, 0.0), (2, 9.0, 0.0), (3, 7.0, 0.0)], [(4, 5.0)], 2, 13.0, id="more than the limit"),
        pytest.param([(1, 10.0, 0.0)], [(1, 1.0), (2, 9.0), (1, 1.0)], 2, 12.0, id="lanes with it and without"),
    ],
)
def test_live_jobs_hold_their_slots_and_lanes(
    live: list[tuple[int, float, float]], items: list[tuple[int, float]], limit: int, expected: float
) -> None:
    """A live job holds its slot and its lane for the rest of its time."""
    lanes = Lanes()
    for conversation, seconds, age in live:
        lanes.begin_with(conversation, seconds, age)
    for conversation, seconds in items:
        lanes.add(conversation, 1, seconds)
    lanes.set_job_seconds(1.0, 1.0)
    assert lanes.count == len({conversation for conversation, _ in items})
    assert forecast_batch(lanes, limit, MANY).seconds == pytest.approx(expected)


def test_a_live_job_of_the_batch_is_waited_for() -> None:
    """An awaited live job is the end of the batch where nothing lasts longer; another batch's is not awaited."""
    lanes = Lanes()
    lanes.begin_with(1, 30.0, 0.0)
    lanes.begin_with(2, 20.0, 0.0)
    lanes.add(3, 1, 5.0)
    lanes.wait_for(2)
    lanes.wait_for(3)
    lanes.set_job_seconds(1.0, 1.0)
    assert forecast_batch(lanes, 5, MANY).seconds == pytest.approx(20.0)
