"""Runs the processes of a world by turns, each on an event loop of its own."""

import asyncio
import heapq
import random
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from math import inf
from typing import Any, TypeVar

from tests.simulation.clock import HangError, Time, VirtualLoop, bury
from tests.simulation.process import KilledError, Process

T = TypeVar("T")

# the most turns of all processes of a night
MOST_TURNS = 300_000


class Scheduler:
    """The processes that run now, and what happens to the world at set times.

    Args:
        time: The world's time.
        rng: Draws which of several processes that may go on does.
        on_over: Called with each process once it has ended or died.
    """

    def __init__(self, time: Time, rng: random.Random, on_over: Callable[[Process], None]) -> None:
        self._time = time
        self._rng = rng
        self._on_over = on_over
        self._processes: list[Process] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._turns = 0
        # those that stand still in the midst of a function
        self._standing: list[Process] = []

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen at a time of the world."""
        heapq.heappush(self._events, (when, next(self._numbers), action))

    def begin(self, process: Process, main: Coroutine[Any, Any, None]) -> None:
        """Begin a process with its main function."""
        process.main = _run_on(process.loop, partial(process.loop.create_task, main))
        self._processes.append(process)

    @property
    def processes(self) -> list[Process]:
        """The processes that run."""
        return self._processes

    def run(self) -> None:
        """Run until all processes have ended or died, and nothing is to happen any more.

        Raises:
            HangError: Nothing will happen, and a process has not ended.
        """
        try:
            while self._processes or self._events:
                self.step()
        finally:
            for process in self._processes:
                process.dead = True
                bury(process.loop)

    def let_others_go_on(self, process: Process, turns: int) -> None:
        """Let others go on for so many turns while a process stands still in the midst of a function."""
        self._standing.append(process)
        try:
            for _ in range(turns):
                self.step()
        finally:
            self._standing.remove(process)

    def step(self) -> None:
        """Let the next thing happen."""
        due = [(process.due_at(), process) for process in self._processes if process not in self._standing]
        earliest = due[0][0] if len(due) == 1 else min((at for at, _ in due), default=inf)
        if self._events and self._events[0][0] <= max(earliest, self._time.now):
            at, _, action = heapq.heappop(self._events)
            self._time.now = max(self._time.now, at)
            action()
            return
        if self._standing and earliest == inf:
            return
        self._turns += 1
        if earliest == inf or self._turns > MOST_TURNS:
            raise HangError(f"the engine hangs after {self._turns} turns at {self._time.now:.3f}")
        self._time.now += max(earliest - self._time.now, 0.0)
        if len(due) == 1:
            self._turn(due[0][1])
            return
        until = max(earliest, self._time.now)
        ready = [process for at, process in due if at <= until]
        self._turn(ready[0] if len(ready) == 1 else self._rng.choice(ready))

    def kill(self, process: Process) -> None:
        """Drop all that a process has in memory."""
        process.died = True
        self._end(process)

    def _turn(self, process: Process) -> None:
        process.turns += 1
        if process.turns == process.dies_at:
            self.kill(process)
            return
        _run_on(process.loop, process.loop.turn)
        if process.main is None or not process.main.done():
            return
        if isinstance(process.main.exception(), KilledError):
            self.kill(process)
            return
        self._end(process)
        process.main.result()

    def _end(self, process: Process) -> None:
        process.dead = True
        self._processes.remove(process)
        bury(process.loop)
        self._on_over(process)


def run_alone(loop: VirtualLoop, time: Time, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop that no other process shares the world with; return its result."""
    found: list[T] = []

    async def run() -> None:
        found.append(await main)

    rng = random.Random(0)
    scheduler = Scheduler(time, rng, lambda _: None)
    scheduler.begin(Process(1, rng, loop, time), run())
    scheduler.run()
    return found[0]


def _run_on(loop: Any, function: Callable[[], T]) -> T:
    """Call a function with a loop as the running one, also within a turn of another."""
    outer = asyncio._get_running_loop()
    if outer is loop:
        return function()
    hooks = sys.get_asyncgen_hooks()
    asyncio._set_running_loop(loop)
    sys.set_asyncgen_hooks(loop._asyncgen_firstiter_hook, loop._asyncgen_finalizer_hook)
    try:
        return function()
    finally:
        sys.set_asyncgen_hooks(*hooks)
        asyncio._set_running_loop(outer)
