"""The concurrency of status requests, and their pauses."""

import pytest

from uploader.policy.backoff import Backoff, after_failure, after_success
from uploader.policy.polling import (
    LATENCY_SECONDS,
    MAX_POLLS_AT_ONCE,
    PAUSE_BASE_SECONDS,
    PAUSE_CAP_SECONDS,
    polls_at_once,
    wants_pause,
)

NOW = 1000.0
ON = Backoff(until=NOW + 8.0, failures=5)


@pytest.mark.parametrize(("per_second", "expected"), [(0.1, 4), (1.0, 4), (10.0, 30), (30.0, 90), (1000.0, 90)])
def test_as_many_as_the_budget_needs(per_second: float, expected: int) -> None:
    """So many that slow answers leave the budget to be used, as far as there are connections."""
    assert polls_at_once(per_second) == expected
    assert expected >= min(per_second * LATENCY_SECONDS, MAX_POLLS_AT_ONCE)


def test_a_budget_that_follows_the_account_has_as_many_as_there_are_connections() -> None:
    """The rate is not known beforehand, and an idle poller costs nothing."""
    assert polls_at_once(None) == MAX_POLLS_AT_ONCE


@pytest.mark.parametrize(
    ("http_status", "retry_after", "expected"),
    [
        (None, None, True),
        (429, None, True),
        (500, None, True),
        (503, "5", True),
        (403, "5", True),
        (200, None, False),
        (302, None, False),
        (404, None, False),
    ],
)
def test_which_answers_ask_for_a_pause(http_status: int | None, retry_after: str | None, expected: bool) -> None:
    """No answer, 429, 5xx, and whatever says when to come again; an unknown job is no sign of trouble."""
    assert wants_pause(http_status, retry_after) is expected


@pytest.mark.parametrize(
    ("backoff", "retry_after", "expected"),
    [
        pytest.param(Backoff(), None, Backoff(NOW + 0.5, 1), id="the first"),
        pytest.param(Backoff(NOW, 1), None, Backoff(NOW + 1.0, 2), id="the next is longer"),
        pytest.param(Backoff(NOW, 6), None, Backoff(NOW + 32.0, 7), id="and longer"),
        pytest.param(Backoff(NOW, 7), None, Backoff(NOW + 60.0, 8), id="up to a minute"),
        pytest.param(Backoff(NOW, 5000), None, Backoff(NOW + 60.0, 5001), id="however many there were"),
        pytest.param(Backoff(), "30", Backoff(NOW + 30.0, 1), id="seconds"),
        pytest.param(Backoff(), "Thu, 01 Jan 1970 00:17:20 GMT", Backoff(NOW + 40.0, 1), id="a date"),
        pytest.param(Backoff(), "0", Backoff(NOW + 0.5, 1), id="at once is not believed"),
        pytest.param(Backoff(), "soon", Backoff(NOW + 0.5, 1), id="unreadable"),
        pytest.param(Backoff(), "9999999", Backoff(NOW + 3600.0, 1), id="beyond belief"),
        pytest.param(ON, None, ON, id="one is on"),
        pytest.param(ON, "3", ON, id="one is on, for longer"),
        pytest.param(ON, "30", Backoff(NOW + 30.0, 5), id="one is on, for less"),
    ],
)
def test_how_long_it_is(backoff: Backoff, retry_after: str | None, expected: Backoff) -> None:
    """Retry-After in both forms (facts.md), as far as it is believed; without it longer each time in a row."""
    found = after_failure(backoff, NOW, base=PAUSE_BASE_SECONDS, cap=PAUSE_CAP_SECONDS, retry_after=retry_after)
    assert found == expected


@pytest.mark.parametrize(("backoff", "expected"), [(Backoff(NOW, 5), Backoff()), (ON, ON)])
def test_a_good_answer_begins_anew(backoff: Backoff, expected: Backoff) -> None:
    """It shortens the next pause; one that is on goes on, for the answer was asked for before it."""
    assert after_success(backoff, NOW) == expected
