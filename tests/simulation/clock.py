"""A virtual clock: an event loop whose time passes only while nothing else is to be done."""

import asyncio
import selectors
from typing import Any


class HangError(AssertionError):
    """Nothing will ever happen again, and the engine has not ended."""


class ProcessDied(BaseException):
    """The process is killed at this await."""


class Time:
    """The world's time in seconds; it goes on when processes die."""

    def __init__(self, now: float) -> None:
        self.now = now


class _Selector(selectors.SelectSelector):
    """A selector that passes the time of the loop's waits, and kills the process at the drawn turn."""

    def __init__(self, time: Time, dies_at_turn: int | None, most_turns: int) -> None:
        super().__init__()
        self._time = time
        self._dies_at_turn = dies_at_turn
        self._most_turns = most_turns
        self.turns = 0

    def select(self, timeout: float | None = None) -> Any:
        """Pass ``timeout`` seconds at once."""
        self.turns += 1
        if self.turns == self._dies_at_turn:
            raise ProcessDied
        if timeout is None or self.turns > self._most_turns:
            raise HangError(f"the engine hangs after {self.turns} turns at {self._time.now:.3f}")
        self._time.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on the world's time."""

    def __init__(self, time: Time, dies_at_turn: int | None = None, most_turns: int = 300_000) -> None:
        self._world_time = time
        super().__init__(_Selector(time, dies_at_turn, most_turns))

    def time(self) -> float:
        """Return the world's time."""
        return self._world_time.now


def bury(loop: VirtualLoop) -> None:
    """Do away with what a dead process leaves in memory."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined] # it was killed: that is no surprise
        coroutine: Any = task.get_coro()
        try:
            coroutine.close()
        except (RuntimeError, ValueError, AssertionError):
            continue  # its finally blocks wanted to await: a dead process does not
    loop.close()
