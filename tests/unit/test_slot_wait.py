"""What a night waited for: how long no slot was free for conversations that were ready, and how that is told."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from uploader.cli import watching
from uploader.cli.watching import SlotWatch
from uploader.errors import ExitCode, LedgerUnavailableError
from uploader.ledger.standing import Standing, Tally
from uploader.model import LimitFacts, State
from uploader.status.summary import Summary

FULL = LimitFacts(configured=2, stated=None, in_force=2, live=2)
FREE = LimitFacts(configured=2, stated=None, in_force=2, live=1)
LOOKS = 5


def unreadable() -> bool:
    """A ledger that cannot be read now."""
    raise LedgerUnavailableError("the disk is full")


async def watched(limit: LimitFacts, is_ready: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds that are counted in some looks."""
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.0)
    looks = 0
    enough = asyncio.Event()

    def look() -> LimitFacts:
        nonlocal looks
        looks += 1
        if looks == LOOKS:
            enough.set()
        return limit

    watch = SlotWatch(look, is_ready)
    watching_task = asyncio.create_task(watch.watch())
    await enough.wait()
    watching_task.cancel()
    with suppress(asyncio.CancelledError):
        await watching_task
    return watch.seconds


@pytest.mark.parametrize(
    ("limit", "is_ready", "counted"),
    [(FULL, lambda: True, True), (FULL, lambda: False, False), (FULL, unreadable, False), (FREE, lambda: True, False)],
    ids=["full and ready", "nobody waits", "unknown", "a slot is free"],
)
async def test_only_what_waits_for_a_slot_is_counted(
    limit: LimitFacts, is_ready: Callable[[], bool], counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No slot free, and a conversation that could go on: both at once, or it was not the limit."""
    assert (await watched(limit, is_ready, monkeypatch) > 0) is counted


def summary(slot_wait_seconds: float, throttled: int) -> Summary:
    """The summary of a run of 100 s."""
    return Summary(
        batch="m.csv",
        exit_code=ExitCode.DONE,
        standing=Standing({State.COMPLETED: Tally(items=1, attempts=1)}),
        bytes_sent=1,
        seconds=100.0,
        results=None,
        ledger=Path("/ledger.db"),
        limit=FREE,
        throttled=throttled,
        troubles=(),
        slot_wait_seconds=slot_wait_seconds,
    )


@pytest.mark.parametrize("silent", [False, True])
def test_the_summary_says_that_no_call_has_come(silent: bool) -> None:
    """To a person with what is to be seen to, to a machine as a field."""
    result = replace(summary(0.0, 0), webhook_silent=silent)
    assert ("see that the service reaches --webhook-url" in "\n".join(result.as_lines())) is silent
    assert result.as_json()["webhookSilent"] is silent


@pytest.mark.parametrize("stated", [None, 2])
@pytest.mark.parametrize(
    ("seconds", "throttled", "told"),
    [(0.0, 0, False), (9.9, 0, False), (10.0, 0, True), (80.0, 3, True), (0.0, 1, True)],
)
def test_the_summary_says_when_the_limit_was_what_the_night_waited_for(
    seconds: float, throttled: int, told: bool, stated: int | None
) -> None:
    """A tenth of the time or more, or a 429; how it is raised only where the service itself stated it."""
    closing = replace(summary(seconds, throttled), limit=replace(FREE, stated=stated))
    text = "\n".join(closing.as_lines())
    assert ("for a free slot" in text) is told
    assert ("after 429s" in text) is (f"{throttled} of this run answered with a 429" in text) is (throttled > 0)
    assert ("support@symbl.ai" in text) is (throttled > 0 and stated is not None)
    assert closing.as_json()["slotWaitSeconds"] == seconds
