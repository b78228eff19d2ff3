"""The picture of a night: every attempt that had a slot is in it, in a bounded number of pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from uploader.ledger.history import AttemptSpan, SlotSpan
from uploader.model import Outcome, State
from uploader.status.night import MOST_PIECES, MOST_ROWS, night_json, nights
from uploader.status.timeline import PAUSE_SECONDS

BEGIN = 1_000_000.0
NOW = BEGIN + 10_000_000.0


def span(number: int, begin: float, seconds: float, *, completed: bool = True) -> SlotSpan:
    """Make an attempt that took its slot at its begin, and gave it back after so many seconds."""
    at = BEGIN + begin
    attempt = AttemptSpan(number, at, at, at, at + seconds, 1)
    state, outcome = (State.COMPLETED, Outcome.APPLIED) if completed else (State.IN_DOUBT, Outcome.IN_DOUBT)
    return SlotSpan(attempt, True, None, outcome, state, "m.csv", number, f"c{number}", f"j{number}")


SPANS = st.lists(
    st.tuples(st.floats(0, 20_000), st.floats(0.001, 3000), st.booleans()),
    min_size=1,
    max_size=80,
).map(
    lambda drawn: [
        span(number, begin, seconds, completed=completed)
        for number, (begin, seconds, completed) in enumerate(sorted(drawn))
    ]
)


@given(SPANS)
def test_no_two_are_in_one_slot_and_no_slot_is_wasted(spans: list[SlotSpan]) -> None:
    """As many rows as slots were taken at once; of pieces in one row each begins once the one before it has ended."""
    shown = night_json(spans, NOW)
    ends = [(each.attempt.admitted_at or 0.0, 1) for each in spans] + [
        (each.attempt.freed_at or 0.0, -1) for each in spans
    ]
    live = most = 0
    for _, change in sorted(ends):
        live += change
        most = max(most, live)
    assert len(shown["rows"]) + shown["more"] == most
    for row in shown["rows"]:
        assert all(before[1] <= after[0] for before, after in pairwise(row))
    doubts = [each for each in spans if each.outcome is Outcome.IN_DOUBT]
    assert len(shown["marked"]) == len(doubts)
    if doubts and not shown["more"]:
        assert "in_doubt" in {piece[2] for row in shown["rows"] for piece in row}


def test_very_many_attempts_in_two_hundred_slots_have_a_bound() -> None:
    """What is too short to be seen is joined, the gravest first."""
    spans = [span(number, 0.1 * (number // 200) + 0.0001 * (number % 200), 0.09) for number in range(20_000)]
    spans[10_000] = span(10_000, 5.0, 0.09, completed=False)
    shown = night_json(spans, NOW)
    pieces = [piece for row in shown["rows"] for piece in row]
    assert len(shown["rows"]) == MOST_ROWS
    assert shown["more"] == 200 - MOST_ROWS
    assert MOST_PIECES / 2 < len(pieces) <= MOST_PIECES + MOST_ROWS
    assert [piece[2] for piece in pieces].count("in_doubt") == 1
    assert len(shown["marked"]) == 1


def test_a_time_in_which_nothing_was_under_way_is_a_pause_and_a_long_one_ends_the_night() -> None:
    """The pause is marked; after hours another night begins."""
    spans = [span(1, 0, 10), span(2, 100, 10), span(3, 110 + PAUSE_SECONDS + 1, 10)]
    first, second = nights(spans, NOW)
    assert ([each.line for each in first], [each.line for each in second]) == ([1, 2], [3])
    assert night_json(first, NOW)["pauses"] == [[10.0, 100.0]]
    assert night_json([], NOW)["rows"] == []
