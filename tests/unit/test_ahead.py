"""When bodies are sent before their turn, and how the caps follow the account: pure functions, no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.ahead import (
    FIRST_LEAD_SECONDS,
    MARGIN_SECONDS,
    MAX_CHECK_SECONDS,
    MAX_LEAD_SECONDS,
    MIN_CHECK_SECONDS,
    SLOW_SECONDS,
    STEPS_SECONDS,
    Lead,
    after_answer,
    blind_slots,
    check_seconds,
    horizon_seconds,
    lanes_ahead,
    slots_ahead,
)
from uploader.policy.caps import LEAST_POLLS_PER_SECOND, LEAST_PUTS_PER_SECOND, poll_rate, put_burst, put_rate
from uploader.policy.durations import CompletedJob, DurationModel, ends_within, fit

SECONDS = st.floats(0.0, 1000.0)


def model(seconds: float) -> DurationModel:
    """Build the model of an account whose jobs all took about so many seconds, and ten of audio."""
    fitted = fit([CompletedJob(10.0, seconds)] * 20)
    assert fitted is not None
    return fitted


@given(SECONDS, SECONDS, SECONDS)
def test_the_first_accepted_body_teaches_how_long_bodies_travel(sent: float, waited: float, answered: float) -> None:
    """All of its way may be travel, the answer's time included, where that is not quick; ten seconds are the most."""
    lead = after_answer(Lead(), sent, waited, answered)
    assert lead.is_learned
    assert min(sent, MAX_LEAD_SECONDS) <= lead.seconds <= MAX_LEAD_SECONDS
    assert lead.seconds <= (sent + waited + answered) * (1.0 + 1e-9)


def test_bodies_that_come_late_lengthen_the_lead_at_once_and_others_shorten_it_slowly() -> None:
    """An answer that takes longer than the quickest one waited for its body; an early body costs one wait at most."""
    lead = Lead(1.0, floor=0.2, is_learned=True)
    late = after_answer(lead, 0.1, 0.5, 1.8)
    assert late.seconds == pytest.approx(0.1 + 0.5 + 1.8 - 0.2)
    early = after_answer(lead, 0.1, 0.0, 0.2)
    assert 0.95 < early.seconds < 1.0


def test_the_quickest_answer_is_that_of_bodies_that_had_the_whole_lead() -> None:
    """What a shorter one is answered says nothing of the service itself."""
    lead = Lead(2.0, is_learned=True)
    assert after_answer(lead, 0.5, 0.5, 3.0).floor is None
    known = after_answer(lead, 0.5, 1.5, 0.3)
    assert known.floor == 0.3
    slower = after_answer(known, 0.5, 1.5, 9.0).floor
    assert slower is not None
    assert 0.3 < slower < 0.31


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), max_size=40))
def test_the_lead_stays_within_its_bounds(answers: list[tuple[float, float, float]]) -> None:
    """Whatever is measured: neither below nothing, nor beyond what a connection bears."""
    lead = Lead()
    for sent, waited, answered in answers:
        lead = after_answer(lead, sent, waited, answered)
        assert 0.0 <= lead.seconds <= MAX_LEAD_SECONDS
    assert MIN_CHECK_SECONDS <= check_seconds(horizon_seconds(lead)) <= MAX_CHECK_SECONDS


def test_before_any_answer_the_horizon_is_a_guess() -> None:
    """Half a second, the margin, and the claim and the admission beside it."""
    assert FIRST_LEAD_SECONDS < horizon_seconds(Lead()) - MARGIN_SECONDS < 2 * FIRST_LEAD_SECONDS


@pytest.mark.parametrize(("lead", "margin"), [(0.005, 0.005), (0.2, 0.2), (4.0, MARGIN_SECONDS)])
def test_a_body_begins_earlier_than_its_travel_asks_for(lead: float, margin: float) -> None:
    """The margin is as long as the travel, half a second at most: jobs end a little before they are foreseen to."""
    assert horizon_seconds(Lead(lead)) == pytest.approx(lead + margin + STEPS_SECONDS)


@pytest.mark.parametrize(
    ("ends", "job_seconds", "horizon", "slots"),
    [
        pytest.param([], 100.0, 1.0, 0, id="nothing lives"),
        pytest.param([0.1] * 10, 100.0, 1.0, 1, id="ten that may end"),
        pytest.param([1.0, 0.9, 0.1], 100.0, 1.0, 2, id="two that will"),
        pytest.param([0.2], 100.0, 1.0, 0, id="one that hardly will"),
        pytest.param([1.0] * 10, 2.0, 5.9, 30, id="bodies travel nearly three times as long as jobs live"),
    ],
)
def test_slots_are_foreseen_by_the_ends_of_live_jobs(
    ends: list[float], job_seconds: float, horizon: float, slots: int
) -> None:
    """As many as are likely to come free while a body travels, and those of the jobs that follow them."""
    assert slots_ahead(ends, 10, model(job_seconds), horizon) == slots


def test_the_next_of_a_lane_is_begun_once_its_job_is_more_likely_to_end_than_not() -> None:
    """A body that goes too early waits, and is cut in the end; one that goes too late leaves the slot idle."""
    assert lanes_ahead({1: 0.1, 2: 0.5, 3: 0.9}) == [2, 3]


@pytest.mark.parametrize(
    ("travel", "was_cut", "may_try", "slots"),
    [
        (SLOW_SECONDS, False, False, 10),
        (SLOW_SECONDS, True, True, 0),
        (SLOW_SECONDS / 2, False, True, 1),
        (SLOW_SECONDS / 2, False, False, 0),
        (0.0, True, True, 0),
    ],
)
def test_bodies_are_sent_ahead_though_no_job_has_ended(travel: float, was_cut: bool, may_try: bool, slots: int) -> None:
    """As many slow bodies as there are slots, one quick body that tries it; none once one was cut for its wait."""
    assert blind_slots(10, travel, was_cut=was_cut, may_try=may_try) == slots


@given(st.floats(0.0, 100.0), st.floats(1.0, 600.0), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_a_job_is_the_likelier_to_end_the_longer_one_waits(age: float, work: float, one: float, other: float) -> None:
    """A probability: 0 within no time, and growing with it, however old the job is."""
    jobs = model(12.0)
    sooner, later = sorted((one, other))
    assert ends_within(age, jobs.lifetime(work), 0.0) == pytest.approx(0.0, abs=1e-9)
    assert 0.0 <= ends_within(age, jobs.lifetime(work), sooner) <= ends_within(age, jobs.lifetime(work), later) <= 1.0


def test_a_job_ends_about_when_such_jobs_do() -> None:
    """Long before its time hardly, within it about once in two, soon after it nearly always; then nobody knows."""
    jobs = model(12.0)
    assert ends_within(0.0, jobs.lifetime(10.0), 6.0) < 0.05
    assert 0.4 < ends_within(0.0, jobs.lifetime(10.0), 12.0) < 0.6
    assert ends_within(11.0, jobs.lifetime(10.0), 4.0) > 0.9
    assert ends_within(1200.0, jobs.lifetime(10.0), 1.0) < 0.05


@given(st.integers(1, 100_000), st.none() | st.floats(0.0, 10_000.0))
def test_rates_follow_limit_and_jobs_and_never_fall_below_what_was_fixed(limit: int, seconds: float | None) -> None:
    """At least 10 PUTs and 30 status requests a second, and as many as slots and jobs ask for."""
    assert put_rate(limit, seconds) >= LEAST_PUTS_PER_SECOND
    assert poll_rate(limit, seconds) >= LEAST_POLLS_PER_SECOND
    assert put_burst(limit) >= 2 * limit, "those for the slots, and those sent ahead"
    if seconds:
        assert put_rate(limit, seconds) * max(seconds, 0.01) >= limit
        assert poll_rate(limit, seconds) * max(seconds, 0.01) >= limit


@pytest.mark.parametrize(
    ("limit", "seconds", "puts", "polls"),
    [(2, 30.0, 10.0, 30.0), (500, 15.0, 500 / 5, 400.0), (10, 0.2, 150.0, 600.0)],
)
def test_rates_of_some_accounts(limit: int, seconds: float, puts: float, polls: float) -> None:
    """A small account as before; 500 slots, and jobs of a fifth of a second, are kept full."""
    assert [put_rate(limit, seconds), poll_rate(limit, seconds)] == pytest.approx([puts, polls])


@pytest.mark.parametrize(
    ("limit", "left", "polls"),
    [(10, 10, 60.0), (10, 1_000, 990 / 30), (500, 10_000, 300.0), (500, 100_000, 300.0)],
)
def test_jobs_that_earlier_nights_left_are_polled_within_half_a_minute(limit: int, left: int, polls: float) -> None:
    """Beside the rate that the limit asks for, all of them once in 30 s, 300 a second at most: they hold the slots."""
    assert poll_rate(limit, 20.0 if left > limit else 2.0, left) == pytest.approx(polls)
