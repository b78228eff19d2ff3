"""How many status requests are under way at once, and how they pause."""

import pytest

from uploader.policy.polling import LATENCY_SECONDS, Pause, after_good, after_trouble, looks_at_once, wants_pause

NOW = 1000.0
ON = Pause(until=NOW + 8.0, in_a_row=5)


@pytest.mark.parametrize(("per_second", "expected"), [(0.1, 4), (1.0, 4), (10.0, 30), (30.0, 90), (1000.0, 90)])
def test_as_many_as_the_budget_needs(per_second: float, expected: int) -> None:
    """So many that slow answers leave the budget to be used, as far as there are connections."""
    assert looks_at_once(per_second) == expected
    assert expected >= min(per_second * LATENCY_SECONDS, 90)


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
    ("pause", "retry_after", "expected"),
    [
        pytest.param(Pause(), None, Pause(NOW + 0.5, 1), id="the first"),
        pytest.param(Pause(NOW, 1), None, Pause(NOW + 1.0, 2), id="the next is longer"),
        pytest.param(Pause(NOW, 6), None, Pause(NOW + 32.0, 7), id="and longer"),
        pytest.param(Pause(NOW, 7), None, Pause(NOW + 60.0, 8), id="up to a minute"),
        pytest.param(Pause(NOW, 5000), None, Pause(NOW + 60.0, 5001), id="however many there were"),
        pytest.param(Pause(), "30", Pause(NOW + 30.0, 1), id="seconds"),
        pytest.param(Pause(), "Thu, 01 Jan 1970 00:17:20 GMT", Pause(NOW + 40.0, 1), id="a date"),
        pytest.param(Pause(), "0", Pause(NOW + 0.5, 1), id="at once is not believed"),
        pytest.param(Pause(), "soon", Pause(NOW + 0.5, 1), id="unreadable"),
        pytest.param(Pause(), "9999999", Pause(NOW + 3600.0, 1), id="beyond belief"),
        pytest.param(ON, None, ON, id="one is on"),
        pytest.param(ON, "3", ON, id="one is on, for longer"),
        pytest.param(ON, "30", Pause(NOW + 30.0, 5), id="one is on, for less"),
    ],
)
def test_how_long_it_is(pause: Pause, retry_after: str | None, expected: Pause) -> None:
    """Retry-After in both forms (facts.md), as far as it is believed; without it longer each time in a row."""
    assert after_trouble(pause, retry_after, NOW) == expected


@pytest.mark.parametrize(("pause", "expected"), [(Pause(NOW, 5), Pause()), (ON, ON)])
def test_a_good_answer_begins_anew(pause: Pause, expected: Pause) -> None:
    """It shortens the next pause; one that is on goes on, for the answer was asked for before it."""
    assert after_good(pause, NOW) == expected
