"""Promise 5: sending stops before it does harm."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import Reply
from uploader.policy.brake import (
    MARKS_AHEAD,
    PROBE_CAP_SECONDS,
    SAME_REFUSALS,
    TROUBLED_LANES,
    Brake,
    Phase,
    after_attempt,
    after_probe,
    marks_ahead,
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
TROUBLES = [LOST, GATEWAY, EARLY_503, UNREACHABLE, CUT]


def after(brake: Brake, *replies: Reply, lane: int | None = None, now: float = 0.0, jitter: float = 0.5) -> Brake:
    """The brake after these replies, each in a lane of its own (``lane``: all in this one)."""
    for number, reply in enumerate(replies, start=1000 + len(brake.troubled)):
        verdict = judge(reply, "c", ())
        brake = after_attempt(brake, verdict, reply, number if lane is None else lane, now, jitter)
    return brake


def probing(now: float = 0.0) -> Brake:
    """A brake that has just come on."""
    return after(Brake(), *[LOST] * TROUBLED_LANES, now=now)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_five_lanes_in_a_row_pause_the_sending(trouble: Reply) -> None:
    """Four lanes in trouble do not pause, the fifth does, whatever kind of trouble it is."""
    four = after(Brake(), *[trouble] * 4)
    assert four.phase is Phase.OFF
    assert after(four, trouble).phase is Phase.PROBING


def test_a_lane_in_trouble_again_and_again_is_one_lane() -> None:
    """One conversation that fails for ever does not stop the others."""
    brake = after(Brake(), *[CUT] * 50, lane=7)
    assert brake.phase is Phase.OFF
    assert brake.troubled == {7}


def test_lanes_count_only_in_a_row() -> None:
    """An answer in between starts the count anew."""
    brake = after(Brake(), *[LOST] * 4, GOOD, *[LOST] * 4)
    assert brake.phase is Phase.OFF
    assert len(brake.troubled) == 4


@pytest.mark.parametrize("answer", [GOOD, NO_SUCH])
def test_a_good_answer_clears_the_brake(answer: Reply) -> None:
    """An answer of the service itself, a refusal too, shows that it is there: all trouble is forgotten."""
    brake = after(Brake(), *[LOST] * 4, answer)
    assert replace(brake, refusal=None) == Brake(refusal=None)


@pytest.mark.parametrize("ours", [WITHHELD, OUR_FILE])
def test_our_own_doing_says_nothing_of_the_service(ours: Reply) -> None:
    """A file of ours that changed, or a cut of ours, neither puts the brake on nor takes it off."""
    for brake in (Brake(), after(Brake(), *[LOST] * 4), probing()):
        assert after(brake, ours) == brake


def test_while_probing_nothing_starts_and_nothing_leaves() -> None:
    """A pause is a pause: no attempt begins, and no last chunk goes out."""
    brake = probing()
    assert brake.attempts_allowed(100) == 0
    assert brake.unanswered_allowed == 0


def test_a_good_probe_lets_one_upload_try() -> None:
    """After the GET answers, one PUT goes, and only one."""
    brake = after_probe(probing(), good=True, now=5.0, jitter=0.5)
    assert brake.phase is Phase.TRIAL
    assert brake.attempts_allowed(100) == 1
    assert brake.attempts_allowed(0) == 0
    assert brake.unanswered_allowed == 1


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trial_that_fails_pauses_again(trouble: Reply) -> None:
    """The trial's lane alone is enough to pause again."""
    trial = after_probe(probing(), good=True, now=5.0, jitter=0.5)
    again = after(trial, trouble, now=6.0)
    assert again.phase is Phase.PROBING
    assert again.probe_at > 6.0


def test_a_trial_that_succeeds_lets_all_go() -> None:
    """One good answer ends the pause."""
    trial = after_probe(probing(), good=True, now=5.0, jitter=0.5)
    brake = after(trial, GOOD)
    assert brake.phase is Phase.OFF
    assert brake.attempts_allowed(100) == 100


@given(st.integers(0, 200), st.floats(0, 1))
def test_probes_come_more_seldom_but_never_stop(probes: int, jitter: float) -> None:
    """After any number of bad probes the next one is ahead, and at most a minute away."""
    brake = replace(probing(), probes=probes)
    paused = after_probe(brake, good=False, now=100.0, jitter=jitter)
    assert paused.phase is Phase.PROBING
    assert paused.probes == probes + 1
    assert 100.0 < paused.probe_at <= 100.0 + PROBE_CAP_SECONDS


def test_an_upload_that_was_out_already_does_not_put_the_probe_off() -> None:
    """Trouble that comes in while probing is noted, and the probe stays where it is."""
    brake = probing()
    later = after(brake, LOST, now=1.0)
    assert later.phase is Phase.PROBING
    assert later.probe_at == brake.probe_at
    assert later.latest == 1.0


def test_without_a_good_answer_for_long_enough_the_run_ends() -> None:
    """give_up_seconds count from the first trouble to the latest, not from the brake."""
    first = after(Brake(), LOST, now=100.0)
    assert reason_to_give_up(after(first, LOST, now=1899.9), 1800.0) is None
    reason = reason_to_give_up(after(first, LOST, now=1900.0), 1800.0)
    assert reason is not None
    assert "1800 s" in reason
    assert "run the same command again" in reason


def test_why_the_run_ends_repeats_no_words_of_the_service() -> None:
    """They may repeat a parameter's value, and the end of a run is told in the log."""
    said = Reply(connected=True, status=503, answer={"message": "no upstream for ?name=Jane"}, failure="(host)")
    reason = reason_to_give_up(after(after(Brake(), said), said, now=1800.0), 1800.0)
    assert reason is not None
    assert "HTTP 503: Service Unavailable: (host)" in reason
    assert "Jane" not in reason


def test_bad_probes_end_the_run_too() -> None:
    """A service that stays away is given up although no upload tries any more."""
    brake = probing(now=100.0)
    assert reason_to_give_up(after_probe(brake, good=False, now=1000.0, jitter=0.5), 1800.0) is None
    assert reason_to_give_up(after_probe(brake, good=False, now=1900.0, jitter=0.5), 1800.0) is not None


def test_a_good_answer_starts_the_patience_anew() -> None:
    """Trouble before a good answer does not count towards giving up."""
    brake = after(after(after(Brake(), LOST, now=0.0), GOOD, now=1000.0), LOST, now=1799.0)
    assert reason_to_give_up(after(brake, LOST, now=1801.0), 1800.0) is None


def test_twenty_same_refusals_end_the_run() -> None:
    """The first 20 answers the same refusal: a wrong base path must not cost a night."""
    nineteen = after(Brake(), *[NO_SUCH] * (SAME_REFUSALS - 1))
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
    brake = after(Brake(), *replies, *[NO_SUCH] * 40)
    assert reason_to_give_up(brake, 1800.0) is None


@given(st.integers(0, SAME_REFUSALS), st.integers(0, 100))
def test_never_more_is_under_way_than_may_still_be_refused(refused: int, wanted: int) -> None:
    """While nothing has gone well, refusals and uploads under way together stay within the twenty."""
    brake = after(Brake(), *[NO_SUCH] * refused)
    assert brake.attempts_allowed(wanted) == min(wanted, SAME_REFUSALS - refused)


def test_after_one_good_answer_nothing_holds_the_pool_back() -> None:
    """The suspicion costs the beginning of a run only."""
    assert after(Brake(), GOOD).attempts_allowed(1000) == 1000


@given(st.lists(st.sampled_from([GOOD, NO_SUCH, *TROUBLES]), max_size=30), st.integers(1, 40))
def test_lanes_in_trouble_and_chunks_out_never_exceed_what_is_allowed(replies: list[Reply], unanswered: int) -> None:
    """While sending is on, lanes in trouble and what may still come into doubt are as many as the setting says."""
    brake = Brake(unanswered=unanswered)
    for number, reply in enumerate(replies):
        if brake.phase is Phase.OFF:
            assert len(brake.troubled) + brake.unanswered_allowed in (unanswered, len(brake.troubled) + 1)
        brake = after(brake, reply, lane=number)


def test_an_item_refused_for_its_cut_offs_is_no_good_answer() -> None:
    """An upload cut off once too often refuses its item; the service has still not answered: the brake stays."""
    verdict = refuse_after_cut_offs(judge(CUT, "c"), CUT, cut_offs=9, most=10)
    trial = after_probe(probing(), good=True, now=5.0, jitter=0.5)
    for brake in (after(Brake(), *[CUT] * 4), trial):
        told = after_attempt(brake, verdict, CUT, 77, 6.0, 0.5)
        assert told.phase is Phase.PROBING
        assert told.since == brake.since


@pytest.mark.parametrize(
    ("brake", "mark_seconds", "answer_seconds", "ahead"),
    [
        (Brake(refusal=None), 0.01, 0.0, 0),
        (Brake(refusal=None), 0.01, 0.3, 0),
        (Brake(refusal=None), 0.01, 0.01, TROUBLED_LANES),
        (Brake(refusal=None), 0.01, 0.004, 12),
        (Brake(refusal=None), 0.01, 0.0001, MARKS_AHEAD),
        (Brake(), 0.01, 0.004, 0),
        (Brake(refusal=None, troubled=frozenset({1})), 0.01, 0.004, 0),
        (Brake(refusal=None, phase=Phase.PROBING), 0.01, 0.004, 0),
    ],
)
def test_marks_run_ahead_only_of_a_disk_slower_than_the_service(
    brake: Brake, mark_seconds: float, answer_seconds: float, ahead: int
) -> None:
    """As many as go out while one mark is committed; none before a good answer, none in trouble, never many."""
    assert marks_ahead(brake, mark_seconds, answer_seconds) == ahead
