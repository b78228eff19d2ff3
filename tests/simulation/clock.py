"""A virtual clock: event loops whose time passes only while nothing else is to be done."""

import asyncio
import selectors
from heapq import heappop
from math import inf
from typing import Any


class HangError(AssertionError):
    """Nothing will ever happen again, and the engine has not ended."""


class Time:
    """The world's time in seconds; it goes on when processes die."""

    def __init__(self, now: float) -> None:
        self.now = now


class _Selector(selectors.SelectSelector):
    """A selector that waits for nothing: the scheduler passes the time."""

    def select(self, timeout: float | None = None) -> Any:
        """Return no event."""
        del timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop of one process, on the world's time as the steady clock of its host shows it.

    Args:
        time: The world's time.
        rate: The seconds of the host's clock in one of the world's.
        ahead: The host's clock less the world's at the world's second 0.
    """

    def __init__(self, time: Time, rate: float = 1.0, ahead: float = 0.0) -> None:
        self._world_time = time
        self._rate = rate
        self._ahead = ahead
        super().__init__(_Selector())

    def time(self) -> float:
        """Return the time by the host's clock."""
        return self._ahead + self._rate * self._world_time.now

    def due_at(self) -> float:
        """Return the world's time of the next callback; infinite where none will come."""
        if self._ready:  # type: ignore[attr-defined] # asyncio's own queues are not public
            return self._world_time.now
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heappop(timers)._scheduled = False
        return (timers[0].when() - self._ahead) / self._rate if timers else inf

    def turn(self) -> None:
        """Run the callbacks that are due once."""
        self._run_once()  # type: ignore[attr-defined]


def bury(loop: VirtualLoop) -> None:
    """Do away with what a dead process leaves in memory."""
    loop.set_exception_handler(lambda *_: None)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined] # it was killed: that is no surprise
        coroutine: Any = task.get_coro()
        try:
            coroutine.close()
        except (RuntimeError, ValueError, AssertionError):
            continue  # its finally blocks wanted to await: a dead process does not
    loop.close()
