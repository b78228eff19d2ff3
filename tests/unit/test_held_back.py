"""What the account's slots do, and what holds them back: tables, and the sum over time."""

from collections.abc import Mapping
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.backoff import Backoff
from uploader.policy.breaker import BreakerState, CircuitBreaker
from uploader.policy.flow import Flow, Throttle
from uploader.policy.held_back import HeldBack, SlotFacts, SlotMeter, SlotUse, slot_uses
from uploader.status.formatting import CAUSES, format_held_back, held_back_json

NOW = 1000.0
# a service that has answered well
FLOW = Flow(CircuitBreaker(refusal=None))
FIXED = FLOW._replace(unanswered=2, unanswered_is_fixed=True)
PAUSED = FLOW._replace(throttle=Throttle(Backoff(until=NOW + 1.0)))
# ten slots, of which four are busy
TEN = SlotFacts(in_force=10, busy=4, uploads_free=60, hands_free=60)
READY = TEN._replace(is_lane_ready=True)


@pytest.mark.parametrize(
    ("flow", "facts", "idle"),
    [
        pytest.param(FLOW, TEN, {"lanes": 6}, id="no lane may go"),
        pytest.param(FLOW, TEN._replace(busy=12), {}, id="the limit has fallen below what lives"),
        pytest.param(FLOW, TEN._replace(retrying=2), {"retry": 2, "lanes": 4}, id="lanes wait for their next attempt"),
        pytest.param(FLOW, TEN._replace(doubtful=2), {"doubt": 2, "lanes": 4}, id="doubts hold slots"),
        pytest.param(FLOW, TEN._replace(travelling=4), {"uplink": 4, "lanes": 2}, id="bodies are under way"),
        pytest.param(FLOW, TEN._replace(travelling=9), {"uplink": 6}, id="more bodies than idle slots"),
        pytest.param(FLOW, TEN._replace(due=3, unanswered=5), {"answers": 3, "lanes": 3}, id="last chunks are out"),
        pytest.param(FIXED, TEN._replace(due=6, unanswered=2), {"unanswered": 6}, id="as many as a person allows"),
        pytest.param(FLOW, TEN._replace(due=6, unanswered=3), {"ledger": 2, "answers": 4}, id="admissions are written"),
        pytest.param(FLOW, TEN._replace(paced=2, travelling=1), {"rate": 2, "uplink": 1, "lanes": 3}, id="the rate"),
        pytest.param(FLOW, READY._replace(travelling=2, uploads_free=0), {"uplink": 2, "uploads": 4}, id="uploads"),
        pytest.param(FLOW, READY._replace(hands_free=0), {"answers": 6}, id="before the first good answer"),
        pytest.param(FLOW, READY._replace(is_claiming=True), {"ledger": 6}, id="a claim is written"),
        pytest.param(FLOW, READY._replace(left_to_others=4), {"otherWorkers": 4, "lanes": 2}, id="other workers' part"),
        pytest.param(FLOW, READY._replace(left_to_others=9), {"otherWorkers": 6}, id="taken meanwhile"),
        pytest.param(FLOW, TEN._replace(left_to_others=4), {"lanes": 6}, id="left to others, and no lane may go"),
        pytest.param(FLOW, READY, {"lanes": 6}, id="bodies of lanes that wait have taken the room"),
        pytest.param(FLOW, TEN._replace(unwritten=3), {"ledger": 3, "lanes": 6}, id="ends are written"),
        pytest.param(
            FLOW, TEN._replace(unwritten=3, due=2, travelling=4, is_ledger_away=True), {"ledger": 9}, id="ledger away"
        ),
        pytest.param(FLOW, TEN._replace(busy=2, unwritten=4), {"ledger": 4, "lanes": 6}, id="more ends than known of"),
        pytest.param(PAUSED, TEN._replace(due=6, doubtful=1), {"doubt": 1, "backoff": 5}, id="after a 429"),
        pytest.param(
            PAUSED._replace(breaker=CircuitBreaker(BreakerState.OPEN)), TEN, {"breaker": 6}, id="the breaker is open"
        ),
        pytest.param(
            Flow(CircuitBreaker(BreakerState.HALF_OPEN)), TEN._replace(travelling=1), {"breaker": 6}, id="half open"
        ),
    ],
)
def test_each_idle_slot_has_one_cause(flow: Flow, facts: SlotFacts, idle: Mapping[str, int]) -> None:
    """What stands nearest to a slot explains it, and what is left is explained by what comes before that."""
    uses = dict(slot_uses(flow, facts, NOW))
    busy = uses.pop(SlotUse.BUSY, 0)
    assert {use.value: slots for use, slots in uses.items()} == idle
    assert busy + sum(uses.values()) == facts.in_force


COUNTS = st.integers(0, 20)
FACTS = st.builds(
    SlotFacts,
    in_force=COUNTS,
    busy=COUNTS,
    doubtful=COUNTS,
    due=COUNTS,
    unanswered=COUNTS,
    paced=COUNTS,
    travelling=COUNTS,
    retrying=COUNTS,
    is_lane_ready=st.booleans(),
    left_to_others=COUNTS,
    uploads_free=COUNTS,
    hands_free=COUNTS,
    is_claiming=st.booleans(),
    unwritten=COUNTS,
    is_ledger_away=st.booleans(),
)


@given(st.lists(st.tuples(FACTS, st.integers(0, 100)), min_size=1), st.sampled_from([FLOW, FIXED, PAUSED]))
def test_the_shares_are_the_whole(steps: list[tuple[SlotFacts, int]], flow: Flow) -> None:
    """Whatever comes in whatever order: every slot's time has one use, and all shares together are 1."""
    meter, now, slot_seconds = SlotMeter(), NOW, 0.0
    for facts, seconds in steps:
        meter.update(slot_uses(flow, facts, now), now, waits=True)
        now += seconds
        slot_seconds += facts.in_force * seconds
    meter.update({}, now, waits=False)
    found = meter.held_back()
    assert (found is None) is (slot_seconds == 0.0)
    if found is not None:
        assert isclose(found.busy + sum(found.causes.values()), 1.0, abs_tol=1e-9)


def test_time_counts_as_long_as_something_is_left_to_send() -> None:
    """Shares are of the limit's slots times the seconds; what comes after the last upload is not in them."""
    meter = SlotMeter()
    meter.update({SlotUse.BUSY: 1, SlotUse.UPLINK: 3}, 10.0, waits=False)
    meter.update({SlotUse.BUSY: 4}, 12.0, waits=True)
    meter.update({SlotUse.BUSY: 3, SlotUse.LANES: 1}, 15.0, waits=True)
    meter.update({}, 17.0, waits=False)
    meter.update({}, 100.0, waits=False)
    found = meter.held_back()
    assert found is not None
    assert (found.busy, found.causes) == (20 / 28, {"uplink": 6 / 28, "lanes": 2 / 28})
    assert meter.full_seconds == 3.0, "a wait for a slot is one where no slot is idle"


def test_nothing_to_send_is_held_back_by_nothing() -> None:
    """A run that has nothing to do names no cause."""
    assert held_back_json(SlotMeter().held_back()) == {"slotsBusy": None, "heldBackBy": {}}
    assert format_held_back(held_back_json(None)) == ""


def test_what_is_less_than_a_hundredth_is_not_told() -> None:
    """To a person the causes that matter, the largest first; to a machine all of them."""
    shown = held_back_json(HeldBack(0.88, {"uplink": 0.07, "answers": 0.045, "rate": 0.005}))
    assert format_held_back(shown) == "7 % by the uplink, 4 % by answers; slots were busy 88 % of the time"
    assert shown["heldBackBy"]["rate"] == 0.005
    assert format_held_back(held_back_json(HeldBack(0.996, {"rate": 0.004}))).startswith("by the limit alone; slots")


def test_every_cause_has_its_words() -> None:
    """No run ends with a cause that nobody has words for."""
    assert CAUSES.keys() == set(SlotUse) - {SlotUse.BUSY}
