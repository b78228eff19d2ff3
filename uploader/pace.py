"""Limits the rate of requests, first come, first served."""

import asyncio

from asyncio_throttle.throttler import Throttler

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
