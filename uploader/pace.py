"""Limits the rate of requests, first come, first served."""

import asyncio

from asyncio_throttle.throttler import Throttler

RETRY_SECONDS = 0.01


class Pace:
    """A rate limiter of requests per second, with bursts of up to one second's requests."""

    def __init__(self, per_second: float) -> None:
        # bursts, because slots get free together: spaced evenly, the tenth of ten would wait for most of a second
        at_once = max(1, int(per_second))
        self._throttle = Throttler(rate_limit=at_once, period=at_once / per_second, retry_interval=RETRY_SECONDS)
        # every waiter of the throttle polls, and they are served out of order: only one may wait in it
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait until the next request may begin."""
        async with self._turn:
            await self._throttle.acquire()  # type: ignore[no-untyped-call] # it ships no types
