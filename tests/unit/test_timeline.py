"""The pictures of a night: what is added up over time stays the same, however long the night."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.ledger.history import AttemptSpan
from uploader.status.timeline import MOST_BUCKETS, Timeline

BEGIN = 1_000_000.0
SECONDS = st.floats(0.0, 50_000.0)


def span(begin: float, before: float, answer: float, job: float, size: int) -> AttemptSpan:
    """Make an attempt: its begin, and the seconds to its admission, its answer and its job's end."""
    admitted = BEGIN + begin + before
    return AttemptSpan(1, BEGIN + begin, admitted, admitted + answer, admitted + answer + job, size)


SPANS = st.lists(st.builds(span, SECONDS, SECONDS, SECONDS, SECONDS, st.integers(0, 10**9)), max_size=20)


@given(SPANS, SECONDS)
def test_nothing_is_lost_in_buckets(spans: list[AttemptSpan], more: float) -> None:
    """Slot seconds and bytes over all buckets are those of the attempts, and there are never many buckets."""
    night = Timeline(BEGIN)
    now = BEGIN + 500_000
    for each in spans:
        night.add(each, now)
    night.reach(night.end + more)
    shown = night.as_json()
    assert len(shown["slots"]) == len(shown["bytesPerSecond"]) <= MOST_BUCKETS
    slots = sum((each.freed_at or now) - (each.admitted_at or now) for each in spans)
    assert sum(night._slot_seconds) == pytest.approx(slots, abs=1e-3)
    assert sum(night._bytes) == pytest.approx(sum(each.bytes_sent for each in spans), rel=1e-6, abs=1e-3)


def test_a_job_that_lives_counts_up_to_now() -> None:
    """Until it has ended, its slot is taken; what is shown of it now changes nothing of what is kept."""
    night = Timeline(BEGIN)
    live = AttemptSpan(1, BEGIN, BEGIN, None, None, 100)
    for seconds in (10, 20):
        assert night.with_open([live], BEGIN + seconds).as_json()["slots"] == [1.0] * seconds + [0.0]
    assert night.as_json()["slots"] == [0.0]


def test_a_doubt_holds_its_slot_until_its_time_is_over() -> None:
    """A slot that is held into the future is taken up to now."""
    doubt = AttemptSpan(1, BEGIN, BEGIN, BEGIN + 1, BEGIN + 900, 0)
    assert doubt.is_open_at(BEGIN + 2)
    assert not doubt.is_open_at(BEGIN + 901)
    assert Timeline(BEGIN).with_open([doubt], BEGIN + 3).as_json()["slots"] == [1.0, 1.0, 1.0, 0.0]
