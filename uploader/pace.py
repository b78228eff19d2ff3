"""Limits the rate of requests, first come, first served."""

import asyncio
from typing import NamedTuple

from asyncio_throttle.throttler import Throttler

from uploader.policy import caps
from uploader.settings import Settings, unless_auto

RETRY_SECONDS = 0.01


class Pace:
    """A rate limiter of requests per second, with bursts of up to one second's requests."""

    def __init__(self, per_second: float) -> None:
        # bursts, because slots get free together: spaced evenly, the tenth of ten would wait for most of a second
        self._throttle = Throttler(rate_limit=1, retry_interval=RETRY_SECONDS)
        self.adjust(per_second)
        # every waiter of the throttle polls, and they are served out of order: only one may wait in it
        self._turn = asyncio.Lock()

    def adjust(self, per_second: float, burst: int | None = None) -> None:
        """Change the rate.

        Args:
            per_second: How many requests may begin in a second.
            burst: How many may begin at once; None: as many as in a second.
        """
        at_once = burst or max(1, int(per_second))
        self._throttle.rate_limit, self._throttle.period = at_once, at_once / per_second

    async def wait(self) -> None:
        """Wait until the next request may begin."""
        async with self._turn:
            await self._throttle.acquire()  # type: ignore[no-untyped-call] # it ships no types


class Paces(NamedTuple):
    """The rate limiters of an account."""

    puts: Pace
    polls: Pace


def make_paces(settings: Settings) -> Paces:
    """Make the rate limiters of an account; a rate that no person has set begins with the least one."""
    return Paces(
        Pace(unless_auto(settings.rate) or caps.LEAST_PUTS_PER_SECOND),
        Pace(unless_auto(settings.jobs.polls_per_second) or caps.LEAST_POLLS_PER_SECOND),
    )
