"""How the summary tells that the night waited for slots, and for callbacks that did not come."""

import pytest

from uploader.errors import ExitCode
from uploader.ledger.standing import Standing, Tally
from uploader.model import LimitFacts, State
from uploader.status.summary import Summary

FREE = LimitFacts(configured=2, stated=None, in_force=2, live=1)


def summary(slot_wait_seconds: float, throttled: int) -> Summary:
    """The summary of a run of 100 s."""
    return Summary(
        batch="m.csv",
        exit_code=ExitCode.DONE,
        standing=Standing({State.COMPLETED: Tally(items=1, attempts=1)}),
        bytes_sent=1,
        seconds=100.0,
        results=None,
        ledger="/ledger.db",
        limit=FREE,
        throttled=throttled,
        troubles=(),
        slot_wait_seconds=slot_wait_seconds,
    )


@pytest.mark.parametrize("silent", [False, True])
def test_the_summary_says_that_no_call_has_come(silent: bool) -> None:
    """To a person with what is to be seen to, to a machine as a field."""
    result = summary(0.0, 0)._replace(webhook_silent=silent)
    assert ("see that the service reaches --webhook-url" in "\n".join(result.as_lines())) is silent
    assert result.as_json()["webhookSilent"] is silent


@pytest.mark.parametrize("seconds", [0.0, 48.2])
def test_the_summary_says_for_how_long_the_ledger_was_away(seconds: float) -> None:
    """To a person as a line, to a machine as a field; a ledger that always answered has no line."""
    closing = summary(0.0, 0)._replace(ledger_away_seconds=seconds)
    assert ("it was away for 48.2 s" in "\n".join(closing.as_lines())) is (seconds > 0.0)
    assert closing.as_json()["ledgerAwaySeconds"] == seconds


@pytest.mark.parametrize("stated", [None, 2])
@pytest.mark.parametrize(
    ("seconds", "throttled", "told"),
    [(0.0, 0, False), (9.9, 0, False), (10.0, 0, True), (80.0, 3, True), (0.0, 1, True)],
)
def test_the_summary_says_when_the_limit_was_what_the_night_waited_for(
    seconds: float, throttled: int, told: bool, stated: int | None
) -> None:
    """A tenth of the time or more, or a 429; how it is raised only where the service itself stated it."""
    closing = summary(seconds, throttled)._replace(limit=FREE._replace(stated=stated))
    text = "\n".join(closing.as_lines())
    assert ("for a free slot" in text) is told
    assert ("after 429s" in text) is (f"{throttled} of this run answered with a 429" in text) is (throttled > 0)
    assert ("support@symbl.ai" in text) is (throttled > 0 and stated is not None)
    assert closing.as_json()["slotWaitSeconds"] == seconds
