"""Keeps the rate of requests, first come, first served."""

import asyncio

from asyncio_throttle.throttler import Throttler

LEAST_PERIOD_SECONDS = 0.02
"""Below this the throttle's own polling would set the rate."""


class Pace:
    """Lets at most so many requests a second begin."""

    def __init__(self, per_second: float) -> None:
        period = max(1.0 / per_second, LEAST_PERIOD_SECONDS)
        burst = max(1, round(per_second * period))
        self._throttle = Throttler(rate_limit=burst, period=period, retry_interval=min(0.01, period / 4))
        # every waiter of the throttle polls, and they are served out of order: only one may wait in it
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for the next request's turn."""
        async with self._turn:
            await self._throttle.acquire()  # type: ignore[no-untyped-call] # it ships no types
