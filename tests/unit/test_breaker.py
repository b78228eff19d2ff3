"""Promise 5: sending stops before it does harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import Reply
from uploader.policy.backoff import Backoff
from uploader.policy.breaker import (
    LANES_TO_OPEN,
    PROBE_CAP_SECONDS,
    SAME_REFUSALS,
    BreakerState,
    CircuitBreaker,
    after_429,
    after_attempt,
    after_probe,
    reason_to_give_up,
)
from uploader.policy.replies import judge, refuse_after_cut_offs

GOOD = Reply(connected=True, last_chunk_left=True, status=201, answer={"jobId": "j"})
LOST = Reply(connected=True, last_chunk_left=True, failure="reset")
GATEWAY = Reply(connected=True, last_chunk_left=True, status=502)
EARLY_503 = Reply(connected=True, status=503)
UNREACHABLE = Reply(failure="Connection refused")
CUT = Reply(connected=True, failure="reset")
WITHHELD = Reply(connected=True, withheld=True)
OUR_FILE = Reply(connected=True, source_failure="the file shrank")
NO_SUCH = Reply(connected=True, last_chunk_left=True, status=404)
BAD_REQUEST = Reply(connected=True, last_chunk_left=True, status=400)
THROTTLED = Reply(connected=True, status=429)
FAILURES = [LOST, GATEWAY, EARLY_503, UNREACHABLE, CUT]


def after(
    breaker: CircuitBreaker, *replies: Reply, lane: int | None = None, now: float = 0.0, jitter: float = 0.5
) -> CircuitBreaker:
    """Return the breaker after these replies, each in a lane of its own (``lane``: all in this one)."""
    for number, reply in enumerate(replies, start=1000 + len(breaker.failing_lanes)):
        verdict = judge(reply, "c", ())
        breaker = after_attempt(breaker, verdict, reply, number if lane is None else lane, now, jitter)
    return breaker


def opened(now: float = 0.0) -> CircuitBreaker:
    """Build a breaker that has just opened."""
    return after(CircuitBreaker(), *[LOST] * LANES_TO_OPEN, now=now)


@pytest.mark.parametrize("failure", FAILURES)
def test_five_lanes_in_a_row_pause_the_sending(failure: Reply) -> None:
    """Four lanes in trouble do not pause, the fifth does, whatever kind of trouble it is."""
    four = after(CircuitBreaker(), *[failure] * 4)
    assert four.state is BreakerState.CLOSED
    assert after(four, failure).state is BreakerState.OPEN


def test_a_lane_in_trouble_again_and_again_is_one_lane() -> None:
    """One conversation that fails for ever does not stop the others."""
    breaker = after(CircuitBreaker(), *[CUT] * 50, lane=7)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.failing_lanes == {7}


def test_lanes_count_only_in_a_row() -> None:
    """An answer in between starts the count anew."""
    breaker = after(CircuitBreaker(), *[LOST] * 4, GOOD, *[LOST] * 4)
    assert breaker.state is BreakerState.CLOSED
    assert len(breaker.failing_lanes) == 4


@pytest.mark.parametrize("answer", [GOOD, NO_SUCH])
def test_a_good_answer_closes_the_breaker(answer: Reply) -> None:
    """An answer of the service itself, a refusal too, shows that it is there: all trouble is forgotten."""
    breaker = after(CircuitBreaker(), *[LOST] * 4, answer)
    assert breaker._replace(refusal=None) == CircuitBreaker(refusal=None)


@pytest.mark.parametrize("ours", [WITHHELD, OUR_FILE])
def test_our_own_doing_says_nothing_of_the_service(ours: Reply) -> None:
    """A file of ours that changed, or a cut of ours, neither opens the breaker nor closes it."""
    for breaker in (CircuitBreaker(), after(CircuitBreaker(), *[LOST] * 4), opened()):
        assert after(breaker, ours) == breaker


def test_while_probing_nothing_starts_and_nothing_leaves() -> None:
    """A pause is a pause: no attempt begins, and no last chunk goes out."""
    breaker = opened()
    assert breaker.attempts_allowed(100) == 0
    assert breaker.unanswered_allowed(5) == 0


def test_a_good_probe_lets_one_upload_try() -> None:
    """After the GET answers, one PUT goes, and only one."""
    breaker = after_probe(opened(), good=True, now=5.0, jitter=0.5)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.attempts_allowed(100) == 1
    assert breaker.attempts_allowed(0) == 0
    assert breaker.unanswered_allowed(5) == 1


@pytest.mark.parametrize("failure", FAILURES)
def test_a_try_that_fails_pauses_again(failure: Reply) -> None:
    """The one PUT's lane alone is enough to pause again."""
    half_open = after_probe(opened(), good=True, now=5.0, jitter=0.5)
    again = after(half_open, failure, now=6.0)
    assert again.state is BreakerState.OPEN
    assert again.probe_at > 6.0


def test_a_try_that_succeeds_lets_all_go() -> None:
    """One good answer ends the pause."""
    half_open = after_probe(opened(), good=True, now=5.0, jitter=0.5)
    breaker = after(half_open, GOOD)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.attempts_allowed(100) == 100


@given(st.integers(0, 200), st.floats(0, 1))
def test_probes_come_more_seldom_but_never_stop(probes: int, jitter: float) -> None:
    """After any number of bad probes the next one is ahead, and at most a minute away."""
    breaker = opened()._replace(probing=Backoff(until=90.0, failures=probes))
    paused = after_probe(breaker, good=False, now=100.0, jitter=jitter)
    assert paused.state is BreakerState.OPEN
    assert paused.probing.failures == probes + 1
    assert 100.0 < paused.probe_at <= 100.0 + PROBE_CAP_SECONDS


def test_an_upload_that_was_out_already_does_not_put_the_probe_off() -> None:
    """A failure that comes in while the breaker is open is noted, and the probe stays where it is."""
    breaker = opened()
    later = after(breaker, LOST, now=1.0)
    assert later.state is BreakerState.OPEN
    assert later.probe_at == breaker.probe_at
    assert later.latest == 1.0


def test_without_a_good_answer_for_long_enough_the_run_ends() -> None:
    """give_up_seconds count from the first trouble to the latest, not from the breaker."""
    first = after(CircuitBreaker(), LOST, now=100.0)
    assert reason_to_give_up(after(first, LOST, now=1899.9), 1800.0) is None
    reason = reason_to_give_up(after(first, LOST, now=1900.0), 1800.0)
    assert reason is not None
    assert "1800 s" in reason
    assert "run the same command again" in reason


def test_why_the_run_ends_repeats_no_words_of_the_service() -> None:
    """They may repeat a parameter's value, and the end of a run is told in the log."""
    said = Reply(connected=True, status=503, answer={"message": "no upstream for ?name=Jane"}, failure="(host)")
    reason = reason_to_give_up(after(after(CircuitBreaker(), said), said, now=1800.0), 1800.0)
    assert reason is not None
    assert "HTTP 503: Service Unavailable: (host)" in reason
    assert "Jane" not in reason


def test_bad_probes_end_the_run_too() -> None:
    """A service that stays away is given up although no upload tries any more."""
    breaker = opened(now=100.0)
    assert reason_to_give_up(after_probe(breaker, good=False, now=1000.0, jitter=0.5), 1800.0) is None
    assert reason_to_give_up(after_probe(breaker, good=False, now=1900.0, jitter=0.5), 1800.0) is not None


def test_a_good_answer_starts_the_patience_anew() -> None:
    """Trouble before a good answer does not count towards giving up."""
    breaker = after(after(after(CircuitBreaker(), LOST, now=0.0), GOOD, now=1000.0), LOST, now=1799.0)
    assert reason_to_give_up(after(breaker, LOST, now=1801.0), 1800.0) is None


def test_twenty_same_refusals_end_the_run() -> None:
    """The first 20 answers the same refusal: a wrong base path must not cost a night."""
    nineteen = after(CircuitBreaker(), *[NO_SUCH] * (SAME_REFUSALS - 1))
    assert reason_to_give_up(nineteen, 1800.0) is None
    reason = reason_to_give_up(after(nineteen, NO_SUCH), 1800.0)
    assert reason is not None
    assert "404" in reason


@pytest.mark.parametrize("other", [GOOD, BAD_REQUEST, LOST])
@pytest.mark.parametrize("place", [0, 10, 19])
def test_one_other_answer_among_the_first_ends_that_suspicion_for_good(other: Reply, place: int) -> None:
    """Only the first answers count, and only if all of them are the same refusal."""
    replies = [NO_SUCH] * 19
    replies.insert(place, other)
    breaker = after(CircuitBreaker(), *replies, *[NO_SUCH] * 40)
    assert reason_to_give_up(breaker, 1800.0) is None


@given(st.integers(0, SAME_REFUSALS), st.integers(0, 100))
def test_never_more_is_under_way_than_may_still_be_refused(refused: int, wanted: int) -> None:
    """While nothing has gone well, refusals and uploads under way together stay within the twenty."""
    breaker = after(CircuitBreaker(), *[NO_SUCH] * refused)
    assert breaker.attempts_allowed(wanted) == min(wanted, SAME_REFUSALS - refused)


def test_after_one_good_answer_nothing_holds_the_pool_back() -> None:
    """The suspicion costs the beginning of a run only."""
    assert after(CircuitBreaker(), GOOD).attempts_allowed(1000) == 1000


@given(st.lists(st.sampled_from([GOOD, NO_SUCH, *FAILURES]), max_size=30), st.integers(1, 40))
def test_lanes_in_trouble_and_chunks_out_never_exceed_what_is_allowed(replies: list[Reply], unanswered: int) -> None:
    """While sending is on, lanes in trouble and what may still come into doubt are as many as the setting says."""
    breaker = CircuitBreaker()
    for number, reply in enumerate(replies):
        if breaker.state is BreakerState.CLOSED:
            failing = len(breaker.failing_lanes)
            assert failing + breaker.unanswered_allowed(unanswered) in (unanswered, failing + 1)
        breaker = after(breaker, reply, lane=number)


def test_an_item_refused_for_its_cut_offs_is_no_good_answer() -> None:
    """An upload cut off once too often refuses its item; the service has still not answered: it is a failure."""
    verdict = refuse_after_cut_offs(judge(CUT, "c"), CUT, cut_offs=9, most=10)
    half_open = after_probe(opened(), good=True, now=5.0, jitter=0.5)
    for breaker in (after(CircuitBreaker(), *[CUT] * 4), half_open):
        told = after_attempt(breaker, verdict, CUT, 77, 6.0, 0.5)
        assert told.state is BreakerState.OPEN
        assert told.since == breaker.since


@pytest.mark.parametrize("failing", [0, 2])
def test_a_429_is_a_good_answer_only_while_a_job_of_ours_is_live(failing: int) -> None:
    """It never opens the breaker; the time without a good answer ends with it, but where nothing of ours is live."""
    breaker = after(after(CircuitBreaker(), LOST, now=100.0), *[LOST] * failing, now=150.0)
    met = after(breaker, THROTTLED, now=200.0)
    assert (met.state, met.failing_lanes, met.since) == (BreakerState.CLOSED, frozenset(), 100.0)
    assert after_429(met, alone=True) == met
    assert after_429(met, alone=False).since is None
    failed_again = after(met, LOST, now=300.0)
    assert after_429(failed_again, alone=False).since == 300.0
