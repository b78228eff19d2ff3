"""The only thread that writes the ledger during a run: all waiting writes share one transaction.

While the ledger's server is away, the thread keeps the writes and tries again: their callers wait, so that nothing is
claimed, admitted or concluded.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from itertools import groupby
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from uploader.ledger.commits import GroupCommits, Write, fail
from uploader.policy.histogram import WRITE_BOUNDS, Histogram

P = ParamSpec("P")
T = TypeVar("T")

# the most writes in one transaction
GROUP = 256
# the least mean of the seconds between the begins of two transactions, so that fewer commits carry many writes
COMMIT_SPACING_SECONDS = 0.01
# after a pause so many seconds of that spacing are left out: the steps of an item follow each other at once in a slow
# night, and at the end of a run
BURST_SECONDS = 0.25
# where transactions are long, more writes share one: the thread leaves the rest of a core to the event loop, which
# holds the interpreter's lock with it, as long as no write waits for more than so many seconds
CORE_SHARE = 0.06
MAX_COMMIT_SPACING_SECONDS = 0.025

# a transaction that takes longer waits for a ledger that does not answer, or is away
STALLED_SECONDS = 2.0


class Writer(Protocol):
    """The executor of the ledger's functions, each in a transaction that is durable when the call returns."""

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` with a connection and these arguments; its exceptions are the caller's."""
        ...


class LedgerThread:
    """The ledger's writing thread: commits writes in groups, and wakes the callers once these are durable.

    Args:
        commits: The commits that it makes; they are nobody else's.
    """

    def __init__(self, commits: GroupCommits) -> None:
        # for metrics: how long the transactions took
        self.write_seconds = Histogram(WRITE_BOUNDS)
        # the seconds in which the ledger was away, or did not answer
        self.stalled_seconds = 0.0
        # by the host's steady clock: the begin of the transaction under way
        self._begun_writing_at: float | None = None
        self._commits = commits
        self._waiting: deque[Write] = deque()
        self._woken = threading.Event()
        self._is_closing = False
        # by the host's steady clock: the begin of the next transaction, were all of them evenly spaced
        self._spaced_at = 0.0
        # in this context, so that its events have the run's fields
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), name="ledger", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the ledger in the next transaction.

        Raises:
            LedgerUnavailableError: The transaction could not be committed. Nothing of it is in the ledger, unless the
                server went away as it was committed and has not come back.
        """
        loop = asyncio.get_running_loop()
        write = Write(function, args, kwargs, loop.create_future())
        self._waiting.append(write)
        # tasks that are ready in the loop may have more to write; a thread that is woken already sees this write
        if not self._woken.is_set():
            loop.call_soon(self._woken.set)
        answer: T = await write.answer
        return answer

    @property
    def is_away(self) -> bool:
        """True while the ledger's server cannot be reached."""
        return self._commits.is_away

    @property
    def is_stalled(self) -> bool:
        """True while the ledger is away, or does not answer."""
        begun = self._begun_writing_at
        return self.is_away or (begun is not None and time.monotonic() - begun > STALLED_SECONDS)

    def give_up_after(self, seconds: float) -> None:
        """Wait for a ledger that is away no longer than so many seconds from now on: the run is to end."""
        self._commits.give_up_after(seconds)

    def close(self) -> None:
        """End the thread once all waiting writes are committed, or the ledger is found to be away."""
        self._is_closing = True
        self._commits.stop_waiting()
        self._woken.set()
        self._thread.join()

    def _work(self) -> None:
        while group := self._gather():
            self._begun_writing_at = begun = time.monotonic()
            cpu_begun = time.thread_time()
            try:
                for wait in self._commits.commit(group, self._take):
                    time.sleep(wait)
            except Exception as error:  # noqa: BLE001 - raised at the callers: a dead thread would leave them waiting
                fail(group, error)
            self._begun_writing_at = None
            seconds = time.monotonic() - begun
            self.write_seconds.observe(seconds)
            if seconds > STALLED_SECONDS:
                self.stalled_seconds += seconds
            _answer(group)
            spacing = (time.thread_time() - cpu_begun) / CORE_SHARE
            spacing = min(max(spacing, COMMIT_SPACING_SECONDS), MAX_COMMIT_SPACING_SECONDS)
            self._spaced_at = max(self._spaced_at, begun) + spacing

    def _gather(self) -> list[Write]:
        """Wait for a write, then take all that wait; return none where the thread is closing."""
        while not self._waiting:
            if self._is_closing:
                return []
            self._woken.wait()
            self._woken.clear()
        rest = self._spaced_at - BURST_SECONDS - time.monotonic()
        if rest > 0.0:
            time.sleep(rest)
        return self._take()

    def _take(self) -> list[Write]:
        """Take the writes that wait, as many as go into one transaction."""
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP))]


def _answer(group: list[Write]) -> None:
    """Wake the callers, those of one event loop together."""
    for loop, writes in groupby(group, key=lambda write: write.answer.get_loop()):
        loop.call_soon_threadsafe(_wake, list(writes))


def _wake(writes: list[Write]) -> None:
    for write in writes:
        if write.answer.done():
            continue  # the caller was cancelled; the write stays committed
        if write.error is not None:
            write.answer.set_exception(write.error)
        else:
            write.answer.set_result(write.result)


__all__ = ["LedgerThread", "Writer"]
