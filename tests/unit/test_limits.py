"""What the account's limit of concurrent jobs is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.limits import STATED_LIMIT_BELIEVED_SECONDS, limit_in_force, stated_limit

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
    """A 429 can be a rate limit, or state nothing: then nothing is learnt from its text."""
    assert stated_limit(text) is None


@given(st.text())
def test_no_text_breaks_anything(text: str) -> None:
    """Whatever a stranger writes is a limit of at least 1, or none."""
    stated = stated_limit(text)
    assert stated is None or stated >= 1


LIMITS = st.integers(1, 100_000)
TIMES = st.floats(0, 4e9)


@given(LIMITS, LIMITS, TIMES, st.floats(0, STATED_LIMIT_BELIEVED_SECONDS))
def test_a_stated_limit_is_believed_for_a_day(configured: int, stated: int, stated_at: float, age: float) -> None:
    """The limit in force is the smaller of the two for 24 hours."""
    assert STATED_LIMIT_BELIEVED_SECONDS == 24 * 3600
    now = min(stated_at + age, stated_at + STATED_LIMIT_BELIEVED_SECONDS - 1)
    assert limit_in_force(configured, stated, stated_at, now) == min(configured, stated)


@given(LIMITS, LIMITS, TIMES)
def test_after_a_day_a_stated_limit_is_forgotten(configured: int, stated: int, stated_at: float) -> None:
    """An account that was upgraded is full again the night after."""
    later = stated_at + STATED_LIMIT_BELIEVED_SECONDS + 1
    assert limit_in_force(configured, stated, stated_at, later) == configured


@given(LIMITS, LIMITS, TIMES, TIMES)
def test_the_limit_in_force_never_exceeds_the_configured_one(
    configured: int, stated: int, stated_at: float, now: float
) -> None:
    """Whatever was stated, whenever, whatever the clock does: never above the setting."""
    assert 1 <= limit_in_force(configured, stated, stated_at, now) <= configured


@given(LIMITS, TIMES)
def test_without_a_statement_the_setting_stands(configured: int, now: float) -> None:
    """No 429 yet: the configured limit."""
    assert limit_in_force(configured, None, None, now) == configured
