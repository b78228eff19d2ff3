"""When a job is looked at: what ended jobs teach, and where the looks go by it."""

import random
from itertools import pairwise
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.durations import (
    HISTORY_SIZE,
    MAX_POLL_SECONDS,
    MAX_SCATTER,
    MIN_JOBS_FOR_CONSTANT,
    MIN_POLL_SECONDS,
    MIN_SCATTER,
    POLL_SHARE_OF_AGE,
    CompletedJob,
    DurationHistory,
    DurationModel,
    PolledJob,
    fit,
    lived_seconds,
    next_poll,
)

SECONDS = st.floats(1e-3, 1e5)
WORK = st.floats(1e-4, 1e5)
ENDS = st.lists(st.builds(CompletedJob, WORK, SECONDS), max_size=2 * HISTORY_SIZE)
AGE = st.floats(0.0, 1e6)
USUAL = DurationModel(constant=0.0, per_audio_second=0.5, scatter=0.2, typical_seconds=50.0, typical_work=100.0)


def looks_until(end: float, work: float, model: DurationModel | None) -> list[float]:
    """Return the ages at which a job that ends at this age is polled; the last poll sees the end."""
    ages = [0.0]
    while ages[-1] < end:
        ages.append(ages[-1] + next_poll(PolledJob(ages[-1], work, model)).wait_seconds)
        assert len(ages) < 10_000
    return ages[1:]


@given(AGE, WORK, ENDS)
def test_a_look_is_never_too_soon_and_never_too_far(age: float, work: float, ends: list[CompletedJob]) -> None:
    """Whatever the model: a poll and the one after it keep the least and the longest interval."""
    look = next_poll(PolledJob(age, work, fit(ends)))
    assert MIN_POLL_SECONDS <= look.wait_seconds <= MAX_POLL_SECONDS
    assert MIN_POLL_SECONDS <= look.step_seconds <= MAX_POLL_SECONDS


@given(AGE, WORK)
def test_as_long_as_nothing_is_known_a_look_comes_after_a_share_of_the_age(age: float, work: float) -> None:
    """Without a model, or without known audio, the interval is a share of the job's age, within the bounds."""
    plain = min(max(age * POLL_SHARE_OF_AGE, MIN_POLL_SECONDS), MAX_POLL_SECONDS)
    assert next_poll(PolledJob(age, work, None)).wait_seconds == plain
    assert next_poll(PolledJob(age, 0.0, USUAL)).wait_seconds == plain


@pytest.mark.parametrize(("live", "share"), [(1, 0.15), (50, 0.15), (100, 0.3), (500, 0.5)])
def test_before_the_first_end_many_jobs_are_polled_less_often_each(live: int, share: float) -> None:
    """By their number: the first end that is seen tells of all of them. A model needs no such thing."""
    assert next_poll(PolledJob(10.0, 10.0, None, live=live)).wait_seconds == pytest.approx(10.0 * share)
    jobs = fit([CompletedJob(10.0, 10.0)] * 20)
    assert next_poll(PolledJob(5.0, 10.0, jobs, live=live)) == next_poll(PolledJob(5.0, 10.0, jobs))


def test_of_many_jobs_that_began_together_one_is_polled_soon_after_they_end() -> None:
    """Before the first end their polls are spread: 500 jobs of 15 s are noticed within a tenth of a second."""
    phases = [number * 0.618034 % 1.0 for number in range(500)]
    seen = []
    for phase in phases:
        age, polls = 0.0, 0
        while age < 15.0:
            age, polls = age + next_poll(PolledJob(age, 10.0, None, live=500, phase=phase)).wait_seconds, polls + 1
        assert polls <= 30
        seen.append(age)
    assert min(seen) - 15.0 <= 0.1


def test_a_clock_that_ran_backwards_is_an_age_of_nothing() -> None:
    """A job that was accepted in the future is polled as one that was accepted now."""
    assert next_poll(PolledJob(-1e9, 100.0, USUAL)) == next_poll(PolledJob(0.0, 100.0, USUAL))


@given(SECONDS, WORK, ENDS)
def test_a_job_of_any_length_is_looked_at_a_bounded_number_of_times(
    end: float, work: float, ends: list[CompletedJob]
) -> None:
    """Intervals grow with the age: hours are some hundred polls, however wrong the model is."""
    assert len(looks_until(end, work, fit(ends))) <= 250 + end / MAX_POLL_SECONDS


@pytest.mark.parametrize("ratio", [0.7, 0.85, 1.0, 1.15, 1.3])
def test_a_plausible_end_is_seen_soon_for_few_looks(ratio: float) -> None:
    """A job of 50 s with a scatter of a fifth is polled often from its earliest plausible end on."""
    end = 50.0 * ratio
    looks = looks_until(end, 100.0, USUAL)
    assert looks[-1] - end <= 3.5
    assert len(looks) <= 36
    assert 0.45 <= looks[0] / 50.0 <= 0.75


def test_looks_are_closest_where_most_jobs_end_and_grow_apart_behind() -> None:
    """Before the plausible range there is one long wait, in it are short ones, behind it a share of the age at most."""
    looks = looks_until(200.0, 100.0, USUAL)
    gaps = {before: after - before for before, after in pairwise(looks)}
    usual = max(gap for age, gap in gaps.items() if 40.0 <= age <= 60.0)
    late = [gap for age, gap in gaps.items() if age >= 90.0]
    assert looks[0] > 5 * usual
    assert min(late) > 1.5 * usual
    assert all(gap <= age * POLL_SHARE_OF_AGE + 1e-9 for age, gap in gaps.items() if age > 50.0)


@given(st.floats(1.0, 1000.0), st.floats(1.1, 8.0))
def test_a_longer_job_is_worth_more_looks(work: float, times: float) -> None:
    """Lateness costs a slot's time, not a share of the job: a longer job is polled more often for its length."""
    short, long = (len(looks_until(0.5 * length, length, USUAL)) for length in (work, times * work))
    assert short <= long + 1


def test_jobs_of_a_tenth_of_a_second_are_no_more_than_a_few_looks() -> None:
    """Jobs of a local sandbox are not polled more often than the least interval allows."""
    model = fit([CompletedJob(1.0, 0.05)] * 20)
    assert looks_until(0.05, 1.0, model) == [MIN_POLL_SECONDS]


@given(st.floats(0.0, 100.0), st.floats(0.01, 10.0), st.integers(MIN_JOBS_FOR_CONSTANT, HISTORY_SIZE))
def test_the_constant_part_and_the_growing_part_are_told_apart(constant: float, rate: float, count: int) -> None:
    """Constant and rate are found, so that jobs of other lengths are predicted, too."""
    ends = [
        CompletedJob(work, constant + rate * work) for work in (5.0 * 1.5 ** (place % 10) for place in range(count))
    ]
    model = fit(ends)
    assert model is not None
    for work in (5.0, 40.0, 150.0):
        expected, scatter = model.expected(work)
        assert expected == pytest.approx(constant + rate * work, rel=0.05)
        assert MIN_SCATTER <= scatter <= 0.2


def test_jobs_that_all_take_the_same_time_are_known_well() -> None:
    """The scatter that was assumed before the first job fades: forty equal jobs leave next to nothing of it."""
    scatters = [fit([CompletedJob(10.0, 15.0)] * count).scatter for count in (1, 8, 16, 40)]  # type: ignore[union-attr]
    assert scatters == sorted(scatters, reverse=True)
    assert scatters[0] > 0.25
    assert scatters[1] > 0.1
    assert scatters[-1] <= 2 * MIN_SCATTER


def test_a_job_that_is_late_by_little_is_polled_again_soon() -> None:
    """Where the model is sure of itself and wrong, the polls behind the expected end grow apart only step by step."""
    model = fit([CompletedJob(10.0, 10.0)] * 40)
    looks = looks_until(13.0, 10.0, model)
    assert looks[-1] - 13.0 <= 1.5
    assert len(looks) <= 16


def test_the_first_poll_comes_before_the_job_has_ended() -> None:
    """Of a job that had ended by its first poll nobody knows how long it took."""
    model = fit([CompletedJob(10.0, 10.0)] * 40)
    assert model is not None
    first = next_poll(PolledJob(0.0, 10.0, model)).wait_seconds
    assert 10.0 * (1.0 - 3.0 * model.scatter) <= first <= 10.0 * (1.0 - 2.0 * model.scatter)


def test_an_outlier_changes_little() -> None:
    """One job in twenty that took a hundred times as long moves neither the expectation nor the scatter by much."""
    ends = [CompletedJob(10.0 + place, (10.0 + place) * (0.9 + 0.02 * (place % 11))) for place in range(40)]
    usual, model = fit(ends), fit([*ends[:20], CompletedJob(20.0, 2000.0), *ends[20:39], CompletedJob(30.0, 3000.0)])
    assert usual is not None
    assert model is not None
    assert model.expected(30.0)[0] == pytest.approx(usual.expected(30.0)[0], rel=0.05)
    assert model.scatter <= 1.6 * usual.scatter


def test_the_latest_jobs_count_most() -> None:
    """A service that becomes three times as slow moves the expectation once half of the history shows it."""
    fast, slow = [CompletedJob(10.0, 10.0)] * 40, [CompletedJob(10.0, 30.0)] * 30
    model = fit([*fast, *slow])
    assert model is not None
    assert model.expected(10.0)[0] == pytest.approx(30.0, rel=0.05)


def test_few_ends_do_not_foretell_jobs_of_another_size() -> None:
    """A single short job does not tell constant from rate: a long job is expected in between."""
    model = fit([CompletedJob(1.0, 10.0)])
    assert model is not None
    alike, other = model.expected(1.0), model.expected(100.0)
    assert alike[0] == pytest.approx(10.0)
    assert other[0] == pytest.approx(100.0)
    assert other[1] > 3 * alike[1]


@given(ENDS)
def test_whatever_ended_what_is_learned_is_a_number(ends: list[CompletedJob]) -> None:
    """Expected seconds are above 0 and finite, the scatter is within its bounds."""
    model = fit(ends)
    assert (model is None) is (not ends)
    if model is not None:
        expected, scatter = model.expected(60.0)
        assert 0.0 < expected < float("inf")
        assert MIN_SCATTER <= scatter <= MAX_SCATTER
        assert log(model.typical_seconds) < 12.0


@given(SECONDS, st.floats(0.0, 1.0))
def test_a_job_lived_to_the_middle_between_the_looks(age: float, share: float) -> None:
    """A lifetime ends between the last poll that saw the job live and the next one; it is never negative."""
    live, begun = share * age, 1e9
    assert lived_seconds(begun, begun + live, begun + age) == pytest.approx((live + age) / 2.0, abs=1e-5)
    assert lived_seconds(begun, begun - 50.0, begun - 50.0) == 0.0


def test_polls_that_are_far_apart_around_the_expected_end_tell_nothing() -> None:
    """The middle between them says less than the model does; it counts where the model is wrong, or the polls close."""
    model = fit([CompletedJob(10.0, 10.0)] * 40)
    assert model is not None
    lifetime = model.lifetime(10.0)
    assert lived_seconds(0.0, 0.0, 11.0, lifetime) is None
    assert lived_seconds(0.0, 5.0, 25.0, lifetime) is None
    assert lived_seconds(0.0, 9.9, 10.1, lifetime) == 10.0
    assert lived_seconds(0.0, 0.0, 8.0, lifetime) == 4.0
    assert lived_seconds(0.0, 12.0, 30.0, lifetime) == 21.0


def test_learning_does_not_drift_by_the_looks_that_see_the_ends() -> None:
    """A model fitted again and again to lifetimes seen by its own polls does not drift: 40 to 60 s stay at 50."""
    durations = DurationHistory()
    for _ in range(40):
        for seconds in (40.0, 45.0, 50.0, 55.0, 60.0):
            looks = [0.0, *looks_until(seconds, 10.0, durations.model)]
            lived = lived_seconds(0.0, looks[-2], looks[-1], durations.lifetime(10.0))
            durations.add([CompletedJob(10.0, lived)] if lived is not None else [])
    assert durations.model is not None
    assert durations.model.expected(10.0)[0] == pytest.approx(50.0, rel=0.05)


def test_jobs_of_two_lengths_are_both_noticed() -> None:
    """Where half of the jobs take 15 s and half 20 s, neither half passes for the outliers of the other."""
    draw, durations, late, polls = random.Random(1), DurationHistory(), 0.0, 0
    for _ in range(200):
        seconds = draw.choice([15.0, 20.0])
        looks = [0.0, *looks_until(seconds, 10.0, durations.model)]
        lived = lived_seconds(0.0, looks[-2], looks[-1], durations.lifetime(10.0))
        durations.add([CompletedJob(10.0, lived)] if lived is not None else [])
        late, polls = late + looks[-1] - seconds, polls + len(looks) - 1
    assert late / 200 <= 0.7
    assert polls / 200 <= 16


@given(st.lists(st.integers(0, 5), max_size=60))
def test_an_account_is_foreseen_anew_each_time_that_twice_as_much_is_known(counts: list[int]) -> None:
    """``add`` returns True at most as often as the number of jobs doubles."""
    durations, told = DurationHistory(), 0
    for count in counts:
        told += durations.add([CompletedJob(1.0, 1.0)] * count)
    assert told <= HISTORY_SIZE.bit_length()
    assert (told > 0) is (sum(counts) > 0) is (durations.model is not None)


def test_ends_that_tell_nothing_are_left_out() -> None:
    """Jobs without audio or without a lifetime are left out."""
    durations = DurationHistory()
    assert not durations.add([CompletedJob(0.0, 5.0), CompletedJob(5.0, 0.0)])
    assert durations.model is None
