"""Measures what a run waited for: how long conversations were ready while no slot was free."""

import asyncio
import time
from collections.abc import Callable

from uploader.errors import UploaderError
from uploader.model import LimitFacts

LOOK_SECONDS = 0.5


class SlotWatch:
    """Looks now and then whether the limit is what keeps a conversation from going on.

    Args:
        limit: What is known of the limit now.
        is_ready: Whether some lane has an item that could go now; called in a thread, only where no slot is free.
    """

    def __init__(self, limit: Callable[[], LimitFacts], is_ready: Callable[[], bool]) -> None:
        self.seconds = 0.0
        self._limit = limit
        self._is_ready = is_ready

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
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
