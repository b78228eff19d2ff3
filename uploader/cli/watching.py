"""Measures how long conversations were ready while no slot was free."""

import asyncio
import time
from collections.abc import Callable

from uploader.errors import UploaderError
from uploader.model import LimitFacts

POLL_SECONDS = 0.5


class SlotWatch:
    """A periodic check whether the account's limit keeps ready conversations waiting.

    Args:
        limit: Returns the account's limit as it is now.
        is_ready: Tells whether some lane has an item to send; called in a thread, only where no slot is free.
    """

    def __init__(self, limit: Callable[[], LimitFacts], is_ready: Callable[[], bool]) -> None:
        self.seconds = 0.0
        self._limit = limit
        self._is_ready = is_ready

    async def watch(self) -> None:
        """Measure the time waited until cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(POLL_SECONDS)
            if await self._is_waiting():
                self.seconds += time.monotonic() - begun

    async def _is_waiting(self) -> bool:
        limit = self._limit()
        if limit.live < limit.in_force:
            return False
        try:
            return await asyncio.to_thread(self._is_ready)
        except UploaderError:
            return False  # a ledger that cannot be read now is the engine's to tell
