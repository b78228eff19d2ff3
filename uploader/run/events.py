"""Hands the log's events of a run to the program that runs it."""

import asyncio
import threading
from collections.abc import Callable

from uploader import logs
from uploader.run.stopping import Stop


class Events:
    """The events of one run, handed to a function in the loop's thread."""

    def __init__(self, on_event: Callable[[logs.Event], None] | None, stop: Stop) -> None:
        self._on_event = on_event
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        # an exception of the function, which is not called after it
        self.failure: Exception | None = None

    def take(self, event: logs.Event) -> None:
        """Take an event from any thread of the run."""
        if self._on_event is None:
            return
        if threading.get_ident() == self._thread:
            self._deliver(event)
        else:
            self._loop.call_soon_threadsafe(self._deliver, event)

    async def flush(self) -> None:
        """Deliver the last events: those of other threads wait in the loop."""
        await asyncio.sleep(0)

    def _deliver(self, event: logs.Event) -> None:
        if self._on_event is None or self.failure is not None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - raised at the end of the run: an item under way must not pay for it
            self.failure = error
            self._stop.request(by="an exception of on_event")
