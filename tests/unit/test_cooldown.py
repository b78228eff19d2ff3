"""How the account pauses after a 429, and what ends the pause before its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.cooldown import (
    Cooldown,
    after_accepted,
    after_claim,
    after_end_of_job,
    after_other_ending,
    after_throttle,
)

NOW, HANDS = 1000.0, 8
ON = Cooldown(until=NOW + 30.0, in_a_row=3, may_probe=True)
ROOM = Cooldown(until=NOW + 30.0, in_a_row=3, may_probe=True, room=True)
TRIED = Cooldown(until=NOW + 30.0, in_a_row=3, may_probe=True, probe=5)


@pytest.mark.parametrize(
    ("cooldown", "allowed"),
    [
        pytest.param(Cooldown(), HANDS, id="off"),
        pytest.param(ON, 0, id="on"),
        pytest.param(Cooldown(until=NOW, in_a_row=3), HANDS, id="just over"),
        pytest.param(ROOM, 1, id="a job has ended"),
        pytest.param(after_claim(ROOM, 5, NOW), 0, id="one tries the room"),
        pytest.param(after_end_of_job(TRIED), 0, id="another job has ended meanwhile"),
        pytest.param(after_accepted(TRIED, 5), HANDS, id="there was room"),
        pytest.param(after_accepted(TRIED, 4), 0, id="an upload of before was accepted"),
        pytest.param(after_throttle(TRIED, None, NOW, 1.0, about_limit=True), 0, id="there was none"),
        pytest.param(after_other_ending(TRIED, 5), 1, id="it came to nothing: another one tries"),
        pytest.param(after_other_ending(TRIED, 4), 0, id="an attempt of before came to nothing"),
        pytest.param(
            after_end_of_job(after_throttle(TRIED, None, NOW, 1.0, about_limit=True)), 1, id="none, then another end"
        ),
        pytest.param(
            after_end_of_job(after_throttle(Cooldown(), None, NOW, 1.0, about_limit=False)), 0, id="about the rate"
        ),
        pytest.param(
            after_end_of_job(after_throttle(ROOM, None, NOW, 1.0, about_limit=False)), 0, id="then one about the rate"
        ),
        pytest.param(
            after_end_of_job(after_throttle(Cooldown(), "9", NOW, 1.0, about_limit=True)), 0, id="the service said when"
        ),
    ],
)
def test_how_many_may_begin(cooldown: Cooldown, allowed: int) -> None:
    """None while it is on, but one at a time to try the room that the end of a job of ours may have left."""
    assert cooldown.attempts_allowed(HANDS, NOW) == allowed


@pytest.mark.parametrize("cooldown", [ON, ROOM, TRIED])
def test_a_429_while_it_is_on_lets_it_go_on(cooldown: Cooldown) -> None:
    """One cooldown for the account, not one per file: neither its end nor its count moves."""
    after = after_throttle(cooldown, None, NOW, 1.0, about_limit=True)
    assert (after.until, after.in_a_row) == (cooldown.until, cooldown.in_a_row)


@pytest.mark.parametrize("cooldown", [ON, ROOM, TRIED])
@pytest.mark.parametrize("about_limit", [True, False])
def test_a_429_while_it_is_on_may_ask_for_longer(cooldown: Cooldown, *, about_limit: bool) -> None:
    """The service's own word is kept to wherever it comes: the longest of them counts, and no sign of room ends it."""
    longer = after_throttle(cooldown, "120", NOW, 1.0, about_limit=about_limit)
    assert longer.until == NOW + 120.0
    assert after_end_of_job(longer).attempts_allowed(HANDS, NOW + 119.0) == 0
    assert after_throttle(longer, "5", NOW, 1.0, about_limit=about_limit).until == NOW + 120.0


@given(st.integers(0, 20), st.floats(0.0, 1.0))
def test_each_one_in_a_row_waits_longer_until_an_upload_is_accepted(in_a_row: int, jitter: float) -> None:
    """Backoff with jitter over the cooldowns, not over the files; an accepted upload begins anew."""
    before = Cooldown(in_a_row=in_a_row)
    after = after_throttle(before, None, NOW, jitter, about_limit=True)
    assert NOW < after.until <= NOW + min(60.0, 2.0**in_a_row)
    assert after.in_a_row == in_a_row + 1
    assert after_accepted(after, 1).in_a_row == 0


def test_an_attempt_that_begins_while_it_is_off_tries_nothing() -> None:
    """Only the one attempt of a cooldown may end it."""
    assert after_claim(Cooldown(), 5, NOW) == Cooldown()
