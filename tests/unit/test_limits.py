"""What the account's limit of concurrent jobs is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.limits import (
    MAX_STEPS_BEFORE_RAISE,
    STATED_LIMIT_BELIEVED_SECONDS,
    LearnedLimit,
    Refusal,
    learn,
    limit_in_force,
    live_by_others,
    refusal_in,
    rises_at,
    stated_limit,
)

SPECIFIED = (
    "This API has a limit of maximum of `X` number of concurrent jobs per account. If you are looking to scale, and "
    "need more concurrent jobs than this limit, please contact us at support@symbl.ai"
)
"""put-audio.md, API Limit Error, word for word."""


@given(st.integers(1, 100_000), st.sampled_from(["`X`", "X"]), st.sampled_from(["`{}`", "{}"]))
def test_the_specified_text_states_its_limit(limit: int, place: str, form: str) -> None:
    """X is read out of the 429's documented text, with the backticks and without."""
    text = SPECIFIED.replace("`X`", place).replace(place, form.format(limit))
    assert stated_limit(text) == limit


@pytest.mark.parametrize(
    "text",
    [
        SPECIFIED,
        SPECIFIED.replace("X", "0"),
        "",
        "Maximum number of concurrent jobs reached. Please wait for some requests to complete.",
        "You have made too many requests in a given amount of time, too quickly.",
        "429",
    ],
)
def test_a_text_without_a_number_states_no_limit(text: str) -> None:
    """A 429 about a rate, or without a number, states no limit."""
    assert stated_limit(text) is None


@given(st.text())
def test_no_text_breaks_anything(text: str) -> None:
    """Any text states a limit of at least 1, or none."""
    stated = stated_limit(text)
    assert stated is None or stated >= 1


LIMITS = st.integers(1, 100_000)
TIMES = st.floats(0, 4e9)


@given(LIMITS, LIMITS, TIMES, st.floats(0, STATED_LIMIT_BELIEVED_SECONDS))
def test_a_stated_limit_is_believed_for_a_day(configured: int, stated: int, stated_at: float, age: float) -> None:
    """The limit in force is the smaller of the two for 24 hours."""
    assert STATED_LIMIT_BELIEVED_SECONDS == 24 * 3600
    now = min(stated_at + age, stated_at + STATED_LIMIT_BELIEVED_SECONDS - 1)
    assert limit_in_force(configured, LearnedLimit(stated, stated_at), now) == min(configured, stated)


@given(LIMITS, LIMITS, TIMES)
def test_after_a_day_a_stated_limit_is_forgotten(configured: int, stated: int, stated_at: float) -> None:
    """The stated limit is forgotten after a day, so that an upgraded account is full again the night after."""
    later = stated_at + STATED_LIMIT_BELIEVED_SECONDS + 1
    assert limit_in_force(configured, LearnedLimit(stated, stated_at), later) == configured


@given(LIMITS, LIMITS, TIMES, TIMES)
def test_the_limit_in_force_never_exceeds_the_configured_one(
    configured: int, stated: int, stated_at: float, now: float
) -> None:
    """The limit in force is never above the configured one, whatever was stated and whatever the clock does."""
    assert 1 <= limit_in_force(configured, LearnedLimit(stated, stated_at), now) <= configured


@given(LIMITS, TIMES)
def test_without_a_statement_the_setting_stands(configured: int, now: float) -> None:
    """Without a 429 the configured limit is in force."""
    assert limit_in_force(configured, LearnedLimit(), now) == configured


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (SPECIFIED.replace("X", "7"), Refusal(7)),
        (SPECIFIED, Refusal()),
        ("Maximum number of concurrent jobs reached. Please wait for some requests to complete.", Refusal()),
        ("You have made too many requests in a given amount of time, too quickly.", None),
        ("You have sent too many requests, 100 of them, too quickly.", None),
        ("Rate limit exceeded", None),
        ("Too many concurrent requests, too quickly", Refusal()),
        ("Too Many Requests", Refusal()),
        ("", Refusal()),
        (SPECIFIED.replace("X", "5,000"), Refusal(5000)),
        (SPECIFIED.replace("`X`", "`1,050`"), Refusal(1050)),
        (SPECIFIED.replace("X", "1.5"), Refusal()),
        ("You have reached your limit of 12 concurrent jobs", Refusal(12)),
        ("You have exceeded the rate limit of 5 requests per second", None),
        ("This API has a limit of 1 request per second. You have sent requests too quickly.", None),
        ("Too many requests: limit of 60 per minute exceeded, too quickly", None),
    ],
)
def test_a_429_is_about_the_limit_or_about_the_rate(text: str, refusal: Refusal | None) -> None:
    """A 429 about the rate changes no limit; a text about neither is taken for the limit."""
    assert refusal_in(text) == refusal


CONFIGURED, JOB, NOW = 50, 30.0, 1000.0


@pytest.mark.parametrize(
    ("learned", "refusal", "live", "in_force", "steps_before_raise"),
    [
        pytest.param(LearnedLimit(), Refusal(10), 15, 10, 1, id="stated, and more of ours were under way"),
        pytest.param(LearnedLimit(), Refusal(10), 10, 10, 1, id="stated, and all of it was ours"),
        pytest.param(LearnedLimit(), Refusal(10), 7, 7, 1, id="stated, and others had three of it"),
        pytest.param(LearnedLimit(), Refusal(80), 50, 50, 1, id="stated above the setting"),
        pytest.param(LearnedLimit(), Refusal(), 10, 10, 1, id="not stated"),
        pytest.param(LearnedLimit(), Refusal(), 0, 1, 1, id="nothing of ours was live"),
        pytest.param(LearnedLimit(10, NOW), Refusal(), 9, 9, 1, id="stated before, and others had one of it"),
        pytest.param(LearnedLimit(10, NOW), Refusal(), 12, 10, 1, id="stated before, and more of ours were under way"),
        pytest.param(LearnedLimit(None, None, 10, NOW, JOB, 2), Refusal(), 13, 10, 2, id="uploads of before it fell"),
        pytest.param(LearnedLimit(None, None, 10, NOW, JOB, 2), Refusal(), 9, 9, 1, id="it falls on"),
        pytest.param(LearnedLimit(None, None, 10, NOW - JOB, JOB), Refusal(), 10, 10, 2, id="the first step refused"),
        pytest.param(LearnedLimit(None, None, 10, NOW - 2 * JOB, JOB, 2), Refusal(), 10, 10, 4, id="refused once more"),
        pytest.param(
            LearnedLimit(None, None, 10, NOW - 8 * JOB, JOB, 8), Refusal(), 10, 10, 8, id="patience has an end"
        ),
        pytest.param(LearnedLimit(20, NOW, 10, NOW - 4 * JOB, JOB, 4), Refusal(), 10, 10, 4, id="others will go"),
        pytest.param(
            LearnedLimit(None, None, 10, NOW - 2 * JOB, JOB), Refusal(), 11, 11, 1, id="the second step refused"
        ),
        pytest.param(
            LearnedLimit(None, None, 10, NOW - 9 * JOB, JOB, 4), Refusal(), 10, 10, 1, id="refused long after"
        ),
        pytest.param(LearnedLimit(10, NOW, 9, NOW - JOB, JOB), Refusal(10), 10, 10, 1, id="back at what was stated"),
    ],
)
def test_what_a_refusal_teaches(
    learned: LearnedLimit, refusal: Refusal, live: int, in_force: int, steps_before_raise: int
) -> None:
    """A refusal drops the limit to the live jobs; a raise that is refused at once doubles the wait for the next one."""
    observed = learn(learned, refusal, live, JOB, NOW)
    assert (limit_in_force(CONFIGURED, observed, NOW), observed.steps_before_raise) == (in_force, steps_before_raise)


@pytest.mark.parametrize(("job_seconds", "step"), [(JOB, JOB), (0.0, 1.0)])
def test_a_step_is_a_jobs_time(job_seconds: float, step: float) -> None:
    """A step is the time of the account's jobs, with a minimum: each step may cost a refusal."""
    assert learn(LearnedLimit(), Refusal(), 3, job_seconds, NOW).step_seconds == step


@pytest.mark.parametrize("steps_before_raise", [1, 2, MAX_STEPS_BEFORE_RAISE])
def test_it_rises_by_one_in_each_quiet_jobs_time(steps_before_raise: int) -> None:
    """The limit rises by one a step after ``steps_before_raise``, at the foretold moments, up to the other limits."""
    learned, seen = LearnedLimit(None, None, 7, NOW, JOB, steps_before_raise), []
    now: float | None = NOW
    while now is not None:
        seen.append((limit_in_force(10, learned, now), (now - NOW) / JOB))
        now = rises_at(10, learned, now)
    assert seen == [(7, 0), (8, steps_before_raise), (9, steps_before_raise + 1), (10, steps_before_raise + 2)]
    assert limit_in_force(10, learned, NOW + 1e9) == 10


@pytest.mark.parametrize(
    ("learned", "others"),
    [
        (LearnedLimit(), None),
        (LearnedLimit(10, NOW), None),
        (LearnedLimit(None, None, 7, NOW), None),
        (LearnedLimit(10, NOW, 7, NOW, JOB), 3),
        (LearnedLimit(10, NOW, 7, NOW - JOB, JOB), 2),
        (LearnedLimit(10, NOW, 7, NOW - 3 * JOB, JOB), None),
    ],
)
def test_what_others_have_live_is_estimated(learned: LearnedLimit, others: int | None) -> None:
    """Jobs of others are the stated limit less the observed one; unknown where either is missing, or they agree."""
    assert live_by_others(learned, NOW) == others


SECONDS = st.floats(0.0, 10_000.0)
EVENTS = st.lists(st.tuples(st.none() | st.integers(1, 60), st.integers(0, 60), SECONDS, SECONDS))


def taught_by(events: list[tuple[int | None, int, float, float]]) -> tuple[LearnedLimit, float]:
    """Return the limit learned from a series of refusals, and the time of the last one."""
    learned, now = LearnedLimit(), NOW
    for stated, live, job_seconds, wait in events:
        now += wait
        learned = learn(learned, Refusal(stated), live, job_seconds, now)
    return learned, now


@given(EVENTS, st.integers(1, 60), SECONDS)
def test_it_stays_between_one_and_what_it_may_be(
    events: list[tuple[int | None, int, float, float]], configured: int, later: float
) -> None:
    """After any refusals the limit is at least 1, and never above the configured or the stated one."""
    learned, now = taught_by(events)
    in_force = limit_in_force(configured, learned, now + later)
    assert 1 <= in_force <= min(configured, learned.stated or configured)


@given(EVENTS, st.integers(1, 60))
def test_a_quiet_account_comes_back(events: list[tuple[int | None, int, float, float]], configured: int) -> None:
    """Without a 429 the limit never falls, and rises by single foretold steps to the other limits."""
    learned, now = taught_by(events)
    learned = LearnedLimit(learned.stated, now, learned.observed, learned.observed_at, min(learned.step_seconds, 60.0))
    may_be = min(configured, learned.stated or configured)
    level = limit_in_force(configured, learned, now)
    while (rises := rises_at(configured, learned, now)) is not None:
        assert now < rises <= now + 60.0 * MAX_STEPS_BEFORE_RAISE
        now, before, level = rises, level, limit_in_force(configured, learned, rises)
        assert level == before + 1
    assert level == may_be


@given(st.integers(1, 40), st.integers(1, 40))
def test_refusals_in_a_row_do_not_swing(real: int, refusals: int) -> None:
    """The true limit of a full account is found; after that only one job more is tried, and rarely."""
    learned = LearnedLimit()
    for live in range(min(CONFIGURED, real + refusals) - 1, real - 1, -1):
        learned = learn(learned, Refusal(), live, JOB, NOW)
    now = NOW
    for _ in range(refusals):
        assert limit_in_force(CONFIGURED, learned, now) == real
        now = rises_at(CONFIGURED, learned, now) or now
        assert limit_in_force(CONFIGURED, learned, now) == real + 1
        learned = learn(learned, Refusal(), real, JOB, now)
    assert now - NOW == JOB * sum(min(2**tried, MAX_STEPS_BEFORE_RAISE) for tried in range(refusals))
