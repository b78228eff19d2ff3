"""A virtual clock: event loops whose time passes only while nothing else is to be done."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")


class HangError(AssertionError):
    """Nothing will ever happen again, and the engine has not ended."""


class Time:
    """The world's time in seconds; it goes on when processes die."""

    def __init__(self, now: float) -> None:
        self.now = now


# so many timers are kept although most of them are cancelled
FEW_TIMERS = 100


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop of one process, on the world's time as the steady clock of its host shows it.

    It does no I/O: what is asyncio's own here costs most of a simulated night, so it is done with less.

    Args:
        time: The world's time.
        rate: The seconds of the host's clock in one of the world's.
        ahead: The host's clock less the world's at the world's second 0.
    """

    def __init__(self, time: Time, rate: float = 1.0, ahead: float = 0.0) -> None:
        self._world_time = time
        self._rate = rate
        self._ahead = ahead
        super().__init__()

    def time(self) -> float:
        """Return the time by the host's clock."""
        return self._ahead + self._rate * self._world_time.now

    def due_at(self) -> float:
        """Return the world's time of the next callback; infinite where none will come."""
        if self._ready:  # type: ignore[attr-defined] # asyncio's own queues are not public
            return self._world_time.now
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._timer_cancelled_count -= 1
            heappop(timers)._scheduled = False
        return (timers[0].when() - self._ahead) / self._rate if timers else inf

    def turn(self) -> None:
        """Run the callbacks that are due once, in asyncio's order."""
        self._drop_cancelled()
        ready, timers, until = self._ready, self._scheduled, self.time() + self._clock_resolution  # type: ignore[attr-defined]
        while timers and timers[0]._when < until:
            timer = heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in the next turn."""
        if self.is_closed():
            raise RuntimeError("the event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback at a time of the host's clock."""
        if self.is_closed():
            raise RuntimeError("the event loop is closed")
        timer: Any = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True
        return timer  # type: ignore[no-any-return]

    def _drop_cancelled(self) -> None:
        """Drop cancelled timers as asyncio does: those first in line, or all where most are cancelled."""
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        if len(timers) > FEW_TIMERS and 2 * self._timer_cancelled_count > len(timers):  # type: ignore[has-type]
            for timer in timers:
                timer._scheduled = not timer._cancelled
            timers[:] = [timer for timer in timers if not timer._cancelled]
            heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1
            heappop(timers)._scheduled = False

    def _write_to_self(self) -> None:
        """Do nothing: no other thread waits for a turn."""


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
