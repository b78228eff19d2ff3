"""The standstill of a run that sends nothing: tables."""

from math import inf

import pytest

from uploader.model import LimitFacts, SlotHolder, State
from uploader.policy.backoff import Backoff
from uploader.policy.breaker import BreakerState, CircuitBreaker
from uploader.policy.flow import Flow, Throttle
from uploader.policy.waiting import HOLDERS_LISTED, Standstill, are_held_in_vain, format_holders, standstill

NOW = 1000.0
OPEN = CircuitBreaker(state=BreakerState.OPEN, probing=Backoff(until=1030.0))
PAUSED = Throttle(Backoff(until=1090.0))


@pytest.mark.parametrize(
    ("flow", "full", "frees_at", "until"),
    [
        pytest.param(Flow(), False, None, None, id="nothing stands in the way"),
        pytest.param(Flow(OPEN, PAUSED), True, 1500.0, 1030.0, id="the breaker before all else"),
        pytest.param(Flow(throttle=PAUSED), True, 1500.0, 1090.0, id="a pause after a 429"),
        pytest.param(Flow(throttle=Throttle(Backoff(until=NOW))), True, 1500.0, 1500.0, id="a slot in doubt"),
        pytest.param(Flow(), True, None, inf, id="a slot that no time gives back"),
    ],
)
def test_what_is_waited_for_and_until_when(flow: Flow, full: bool, frees_at: float | None, until: float | None) -> None:
    """One reason, the one that would still hold if the others were gone, and its end."""
    found = standstill(flow, NOW, full=full, frees_at=frees_at)
    assert (None if found is None else found.until) == until


@pytest.mark.parametrize(("ahead", "told", "vain"), [(60.0, False, False), (61.0, True, False), (601.0, True, True)])
def test_a_long_wait_is_told_and_a_very_long_one_ends_the_run(ahead: float, told: bool, vain: bool) -> None:
    """More than a minute is told; where only held slots are lacking, and for more than ten, waiting is in vain."""
    found = standstill(Flow(), NOW, full=True, frees_at=NOW + ahead)
    assert found is not None
    assert (found.is_worth_logging(NOW), found.is_in_vain(NOW)) == (told, vain)
    assert not Standstill("a pause", NOW + ahead).is_in_vain(NOW)


@pytest.mark.parametrize(("ago", "told"), [(60.0, False), (61.0, True)])
def test_a_series_of_short_waits_is_told_after_a_minute(ago: float, told: bool) -> None:
    """An open breaker probes at least every minute: that nothing is sent shows by how long it has not been."""
    is_open = OPEN._replace(since=NOW - ago)
    alone = PAUSED._replace(backoff=Backoff(until=NOW + 5.0), alone_since=NOW - ago)
    for flow in (Flow(is_open), Flow(throttle=alone)):
        found = standstill(flow, NOW, full=False, frees_at=None)
        assert found is not None
        assert found.is_worth_logging(NOW) is told


def test_who_holds_the_slots_is_told_with_line_state_and_job() -> None:
    """A person finds each of them; of very many the first are named, and how many there are."""
    holder = SlotHolder("m.csv", 17, "c-1", State.IN_DOUBT, "job-9", None)
    told = format_holders([holder, SlotHolder("n.csv", 3, "c-2", State.ACCEPTED, None, None)], 2)
    assert "m.csv line 17, c-1: in doubt, job job-9; n.csv line 3, c-2: accepted: settle" in told
    assert f"and {30 - HOLDERS_LISTED} more" in format_holders([holder] * 30, 30)
    assert format_holders([holder], 1).startswith("the only slot is held by")


@pytest.mark.parametrize(
    ("in_force", "live", "until", "frees_at", "vain"),
    [
        pytest.param(2, 2, NOW + 900, NOW + 900, True, id="nothing is free for long"),
        pytest.param(2, 2, NOW + 900, None, True, id="nothing is ever free"),
        pytest.param(2, 2, NOW + 900, NOW + 300, False, id="a slot is free in five minutes"),
        pytest.param(3, 2, NOW + 900, NOW + 900, False, id="a slot is free"),
        pytest.param(2, 2, None, NOW + 900, False, id="a live job, which ends by itself"),
    ],
)
def test_a_run_is_of_no_use_while_all_slots_are_held(
    in_force: int, live: int, until: float | None, frees_at: float | None, vain: bool
) -> None:
    """Status exits as a run would, which ends at once where all its slots are held for more than ten minutes."""
    holders = [SlotHolder("m.csv", line, "c", State.IN_DOUBT, None, until) for line in range(2, 2 + live)]
    limit = LimitFacts(in_force, None, in_force, live, expires_at=frees_at)
    assert are_held_in_vain(limit, holders, NOW) is vain
