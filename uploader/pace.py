"""Keeps the rate of requests, first come, first served."""

import asyncio

from asyncio_throttle.throttler import Throttler

RETRY_SECONDS = 0.01


class Pace:
    """Lets at most so many requests begin in any second.

    Slots that are free together are taken together: spaced evenly, the tenth of ten would wait for most of a second.
    """

    def __init__(self, per_second: float) -> None:
        at_once = max(1, int(per_second))
        self._throttle = Throttler(rate_limit=at_once, period=at_once / per_second, retry_interval=RETRY_SECONDS)
        # every waiter of the throttle polls, and they are served out of order: only one may wait in it
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for the next request's turn."""
        async with self._turn:
            await self._throttle.acquire()  # type: ignore[no-untyped-call] # it ships no types
