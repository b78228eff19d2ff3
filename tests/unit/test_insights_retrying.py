"""Asking again: how long, how often, and when it is given up; under a virtual clock."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from tests.simulation.clock import Time, VirtualLoop
from tests.simulation.scheduler import run_alone
from uploader.errors import GaveUpError
from uploader.insights import RetryingReader
from uploader.model import Answer
from uploader.pace import Pace

GOOD, GONE, BUSY, BROKEN, LOST = Answer(200, {}), Answer(404), Answer(429), Answer(500), Answer(failure="reset")
GIVE_UP_SECONDS = 1800.0


class Service:
    """Answers by the part that is asked for, and notes when it was asked."""

    def __init__(self, time: Time, answers: Callable[[str, int], Answer]) -> None:
        self.asked: list[tuple[str, float]] = []
        self._time = time
        self._answers = answers

    async def conversation(self, _: str, part: str = "") -> Answer:
        """Answer."""
        self.asked.append((part, self._time.now))
        return self._answers(part, sum(path == part for path, _ in self.asked))


class Free:
    """A pace that holds nobody up."""

    async def wait(self) -> None:
        """Go on."""


def asking(
    answers: Callable[[str, int], Answer],
    work: Callable[[RetryingReader], Coroutine[Any, Any, Any]],
    jitter: float = 1.0,
) -> tuple[Any, Service]:
    """Return the outcome of work with a reader, and the requests that the service received."""
    time = Time(1000.0)
    service = Service(time, answers)
    rng = random.Random()
    rng.random = lambda: jitter  # type: ignore[method-assign] # drawn by the test

    async def ask() -> Any:
        reader = RetryingReader(service, cast("Pace", Free()), lambda: time.now, rng, GIVE_UP_SECONDS)
        return await work(reader)

    return run_alone(VirtualLoop(time), time, ask()), service


def in_turn(*answers: Answer) -> Callable[[str, int], Answer]:
    """One answer after the other, the last one for ever."""
    return lambda _, number: answers[min(number, len(answers)) - 1]


@pytest.mark.parametrize("last", [GOOD, GONE, Answer(302)])
@pytest.mark.parametrize("before", [[], [BUSY], [BROKEN, LOST, Answer(401), Answer(503), BUSY]])
def test_it_is_asked_until_the_answer_is_final(before: Sequence[Answer], last: Answer) -> None:
    """Throttling, trouble and lost answers are asked again; an answer or a refusal is not."""
    found, service = asking(in_turn(*before, last), lambda reader: reader.ask("c", "topics"))
    assert found == last
    assert len(service.asked) == len(before) + 1


def test_waits_grow_with_full_jitter() -> None:
    """1, 2, 4, … seconds at most, 60 in the end, times what chance says."""
    _, service = asking(in_turn(*[BROKEN] * 8, GOOD), lambda reader: reader.ask("c"), jitter=0.5)
    times = [at for _, at in service.asked]
    assert [after - before for before, after in pairwise(times)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heeded(status: int) -> None:
    """A Retry-After is waited for."""
    _, service = asking(in_turn(Answer(status, retry_after="77"), GOOD), lambda reader: reader.ask("c"))
    assert service.asked[1][1] - service.asked[0][1] == 77


def test_a_429_holds_up_whatever_else_is_asked() -> None:
    """It is about the account: nobody asks anything before its time."""

    async def both(reader: RetryingReader) -> None:
        asked = asyncio.ensure_future(reader.ask("c", "throttled"))
        await asyncio.sleep(1)
        await reader.ask("d", "other")
        await asked

    def answers(part: str, number: int) -> Answer:
        return Answer(429, retry_after="30") if (part, number) == ("throttled", 1) else GOOD

    _, service = asking(answers, both)
    assert sorted(at for _, at in service.asked) == [1000.0, 1030.0, 1030.0]


def test_a_service_that_is_silent_is_given_up() -> None:
    """Within give_up_seconds, and not before another try would be too late."""
    times: list[float] = []

    def note(_: str, __: int) -> Answer:
        return LOST

    async def ask(reader: RetryingReader) -> None:
        with pytest.raises(GaveUpError, match=r"no good answer for 1800 s .* reset; .* run the same command again"):
            await reader.ask("c")

    _, service = asking(note, ask)
    times = [at - 1000.0 for _, at in service.asked]
    assert GIVE_UP_SECONDS - 60 <= times[-1] <= GIVE_UP_SECONDS


def test_one_thing_that_cannot_be_had_does_not_end_the_rest() -> None:
    """While the service answers others, the one that it has only trouble for is let go, and told as it is."""

    async def both(reader: RetryingReader) -> Answer:
        asked = asyncio.ensure_future(reader.ask("c", "broken"))
        while not asked.done():
            await reader.ask("d", "good")
            await asyncio.sleep(100)
        return await asked

    found, _ = asking(lambda part, _: BROKEN if part == "broken" else GOOD, both)
    assert found == BROKEN


def test_a_wait_beyond_the_time_is_not_waited() -> None:
    """A Retry-After of an hour, with half an hour left: given up at once, for the command to be run later."""

    async def ask(reader: RetryingReader) -> None:
        with pytest.raises(GaveUpError):
            await reader.ask("c")

    _, service = asking(in_turn(Answer(503, retry_after="3600")), ask)
    assert len(service.asked) == 1
